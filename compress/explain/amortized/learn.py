"""Train a selector at a target area, through what a predictor sees of the masks that it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...config import SelectorConfig
from ...data import Batch, BatchSource
from ...training import History, Learning, fit, one_cycle
from .predictor import Predictor, divergence
from .quality import Sample, judge_selector
from .rbf import area, power_area, rbf_map, relaxed_bernoulli, roughness
from .selector import ExplainedClassifier

AREA_REACH, AREA_RATE = 20.0, (0.02, 0.1)
"""How fast the area weight follows: per step its logarithm moves by a rate times the relative error of the area.
The rate is AREA_REACH / steps within the limits AREA_RATE: short trainings must arrive too, long ones not swing."""

AREA_BAND = 0.2
"""An epoch whose mean area is further than this from the target (relative) is not a candidate for the best one."""


class _AreaWeight:
    """lambda_1: grows while the maps are too large, shrinks while they are too small (dual ascent on the area)."""

    def __init__(self, start: float, target: float, steps: int) -> None:
        self.value, self.target = start, target
        self.rate = min(max(AREA_REACH / steps, AREA_RATE[0]), AREA_RATE[1])

    def follow(self, _step: int, figures: Mapping[str, float]) -> None:
        error = figures["area"] / self.target - 1
        self.value = min(max(self.value * math.exp(self.rate * max(-1.0, min(1.0, error))), 1e-4), 1e4)

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        self.value = state["value"]


Objective = Callable[[Batch, Tensor, Tensor, float], dict[str, Tensor]]
"""A batch, the classifier's logits, the explanations' numbers and the area's weight -> "loss", "area", more figures."""


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
    """Minimise ``objective`` while its area weight follows ``target_area``; classifier and predictor stay frozen.

    The best epoch on validation images within ``AREA_BAND`` stays.

    Args:
        objective: against this ``predictor``: ``rbf_objective``, ``realx_objective``.
        sample: see ``judge_selector``.
    """
    network.classifier.eval().requires_grad_(False)
    predictor.eval().requires_grad_(False)
    weight = _AreaWeight(config.area_weight, target_area, config.epochs * len(train))

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        network.classifier.eval()
        logits, numbers = model(batch.images, batch.labels)
        figures = objective(batch, logits, numbers, weight.value)
        return {**figures, "area_weight": torch.tensor(weight.value)}

    def validate() -> float:
        quality = judge_selector(network, predictor, val, learning.fabric, brief=True, sample=sample)
        network.selector.train()
        off = abs(quality.mean_area / target_area - 1)
        return quality.kl if off <= AREA_BAND else 1e3 * (1 + off)

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
        after_step=weight.follow,
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
