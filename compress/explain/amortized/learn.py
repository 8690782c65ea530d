"""Train a selector at a target area against a predictor, with early checks that stop a hopeless one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...config import SelectorConfig
from ...data import Batch, BatchSource, Subsample
from ...training import History, Learning, Validation, fit, one_cycle
from .early import EARLY_IMAGES, EarlyChecks
from .predictor import Predictor, divergence
from .quality import Sample, hopeless, judge_selector
from .rbf import area, power_area, rbf_map, relaxed_bernoulli, roughness
from .selector import ExplainedClassifier

AREA_GAIN, AREA_RATE_RANGE = 20.0, (0.02, 0.1)
"""Gain of the area weight: per step its logarithm changes by a rate times the relative error of the area. The rate is
AREA_GAIN / steps, clamped to AREA_RATE_RANGE: short trainings must converge too, long ones must not oscillate."""

AREA_BAND = 0.2
"""Largest relative distance of an epoch's mean area from the target for it to be the best epoch."""


class _AreaWeight:
    """lambda_1, by dual ascent on the area: grows while the maps are too large, shrinks while they are too small."""

    def __init__(self, start: float, target: float, steps: int) -> None:
        self.value, self.target = start, target
        self.rate = min(max(AREA_GAIN / steps, AREA_RATE_RANGE[0]), AREA_RATE_RANGE[1])

    def update(self, figures: Mapping[str, float]) -> None:
        error = figures["area"] / self.target - 1
        self.value = min(max(self.value * math.exp(self.rate * max(-1.0, min(1.0, error))), 1e-4), 1e4)

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        self.value = state["value"]


Objective = Callable[[Batch, Tensor, Tensor, float], dict[str, Tensor]]
"""Loss of a selector: (batch, classifier's logits, explanations, area weight) -> "loss", "area" and more figures."""


def train_selector(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    *,
    objective: Objective,
    config: SelectorConfig,
    target_area: float,
    sample: Sample | None = None,
) -> History:
    """Minimise ``objective`` at ``target_area``, by adapting the area weight; classifier and predictor stay frozen.

    The weights of the best epoch on validation images stay: the lowest KL within ``AREA_BAND``, or the nearest area.

    Args:
        objective: of this ``predictor``: ``rbf_objective``, ``realx_objective``.
        sample: see ``judge_selector``.

    Raises:
        ExplainerRefused: an early check found it hopeless (see ``hopeless``).
    """
    network.classifier.eval().requires_grad_(False)
    predictor.eval().requires_grad_(False)
    steps = config.epochs * len(train)
    weight = _AreaWeight(config.area_weight, target_area, steps)
    few = Subsample(val, EARLY_IMAGES)

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        network.classifier.eval()
        logits, numbers = model(batch.images, batch.labels)
        figures = objective(batch, logits, numbers, weight.value)
        return {**figures, "area_weight": torch.tensor(weight.value)}

    def validate() -> Validation:
        quality = judge_selector(network, predictor, val, learning.fabric, extent="brief", sample=sample)
        network.selector.train()
        error = abs(quality.mean_area / target_area - 1)
        figures = {"validation_kl": quality.kl, "validation_area": quality.mean_area}
        return Validation(quality.kl, figures, excess=error if error > AREA_BAND else 0.0)

    def look(step: int, *, late: bool) -> str | None:
        quality = judge_selector(network, predictor, few, learning.fabric, extent="equal_area", sample=sample)
        network.selector.train()
        learning.progress.note(f"selector after step {step:,} of {steps:,}: {quality.in_words()}")
        return hopeless(quality, target_area, network.selector.head.kind, late=late)

    early = EarlyChecks("selector", steps, look)

    def after_step(step: int, figures: Mapping[str, float]) -> None:
        weight.update(figures)
        early.after_step(step)

    network.selector.train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.selector.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    history = fit(
        network,
        train,
        loss,
        optimizer,
        learning,
        what="selector",
        epochs=config.epochs,
        schedule=one_cycle,
        max_norm=5.0,
        validate=validate,
        patience=config.patience,
        after_step=after_step,
        keeps={"area weight": weight},
    )
    network.eval().requires_grad_(False)
    return history


def rbf_objective(predictor: Predictor, side: int, config: SelectorConfig) -> Objective:
    """KL(Q_class(x) || q_pred(m * x)) + l1 R(m) + l2 S(m), m sampled once per image from f_sel(x; y) (ISP Eq. 8).

    S(m) is taken on the probabilities: the noise of one sample would drown it.
    """

    def objective(batch: Batch, logits: Tensor, params: Tensor, weight: float) -> dict[str, Tensor]:
        probability = rbf_map(params, side)
        mask = relaxed_bernoulli(probability, config.temperature)
        kl = divergence(logits, predictor(batch.images, mask)).mean()
        mean_area = area(probability).mean()
        size = mean_area if config.area_term == "mean" else power_area(mask).mean()
        return {
            "loss": kl + weight * size + config.smooth_weight * roughness(probability),
            "kl": kl,
            "area": mean_area,
        }

    return objective
