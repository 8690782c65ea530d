"""Train a selector at a target area against a predictor, measure its quality, and refuse one that collapsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ...config import SelectorConfig
from ...data import Batch, BatchSource, one_pass
from ...errors import PruningError
from ...training import History, Learning, fit, one_cycle, to_device
from .predictor import Predictor, divergence
from .rbf import area, fixed_draws, power_area, rbf_map, relaxed_bernoulli, roughness
from .selector import ExplainedClassifier

Sample = Callable[[Tensor], Tensor]
"""Draws masks from maps of probabilities (N, 1, H, W), for a predictor that was trained on sampled masks."""

MAX_AREA, MIN_AREA = 0.85, 0.02
"""Mean areas beyond which a selector has collapsed to the whole image, or to nothing."""


@dataclass(frozen=True)
class SelectorQuality:
    """Quality of a selector on validation images. KL in nats, sigma in pixels, area as a share of the image.

    ``kl`` explains the true label and ``kl_predicted_label`` the predicted one. The others are of control masks: the
    same maps moved to the image's centre, centred radial ones of the same areas, the same maps at random positions.
    Sigma and centre of a map that is not radial are those of its mass (``map_moments``).
    """

    mean_area: float
    sigma_p10: float
    sigma_median: float
    sigma_p90: float
    centre_spread: float
    kl: float
    kl_predicted_label: float
    kl_centred: float
    kl_centred_same_area: float
    kl_random: float

    def in_words(self) -> str:
        """One line."""
        return (
            f"mean area {self.mean_area:.3f}, sigma {self.sigma_median:.1f} px, KL {self.kl:.3f} (centred "
            f"{self.kl_centred:.3f}, same area centred {self.kl_centred_same_area:.3f}, random {self.kl_random:.3f})"
        )

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return asdict(self)


@torch.inference_mode()
def judge_selector(
    network: ExplainedClassifier,
    predictor: Predictor,
    val: BatchSource,
    fabric: Fabric,
    *,
    brief: bool = False,
    sample: Sample | None = None,
) -> SelectorQuality:
    """Measure a selector on validation images. Leaves network and predictor in eval mode.

    Args:
        brief: leave out the controls (they are NaN): for validation during training.
        sample: draws masks from the maps, for a predictor that was trained on hard ones only; None: the maps are used.
    """
    network.eval()
    predictor.eval()
    head = network.selector.head
    precision = fabric.autocast if brief else nullcontext  # the final measure is in float32

    def work(number: int, batch: Batch) -> tuple[list[float], float, Tensor]:
        batch = to_device(batch, fabric.device)
        with fixed_draws(fabric.device, number), precision():
            logits, numbers = network(batch.images, batch.labels)
            masks = [head.to_maps(numbers)]
            if not brief:
                predicted = head.to_maps(network(batch.images)[1])
                masks += [predicted, *head.control_masks(numbers)]
            drawn = masks if sample is None else [_sample_fixed(sample, mask) for mask in masks]
            sums = [float(divergence(logits, predictor(batch.images, mask)).sum()) for mask in drawn]
        numbers = numbers.float()
        return sums, float(area(head.to_maps(numbers)).sum()), head.to_moments(numbers).cpu()

    sums, areas, batches = zip(*one_pass(val, work), strict=True)
    moments = torch.cat(batches)
    count = len(moments)
    low, median, high = moments[:, 2].quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    kls = [sum(values) / count for values in zip(*sums, strict=True)]
    controls = [math.nan] * 4 if brief else kls[1:]
    spread = float(moments[:, :2].std(0).mean())
    return SelectorQuality(sum(areas) / count, low, median, high, spread, kls[0], *controls)


def _sample_fixed(sample: Sample, maps: Tensor) -> Tensor:
    """Draw with the same noise for all masks, so that they compare, and ``kl`` does not depend on the controls."""
    with fixed_draws(maps.device):
        return sample(maps)


def refuse_collapsed(quality: SelectorQuality, target_area: float, kind: str = "rbf") -> None:
    """Raise PruningError if the selector collapsed, the silent failure of amortized explainers: it cannot steer."""
    if quality.mean_area > MAX_AREA:
        softer = "use explainer.selector.area_term=mean, " if kind == "rbf" else ""  # others have no other term
        raise PruningError(
            f"the selector collapsed to the whole image (mean area {quality.mean_area:.2f}, target {target_area:.2f}, "
            f"median sigma {quality.sigma_median:.0f} px): its maps explain nothing; "
            f"{softer}raise explainer.selector.area_weight or train it for longer"
        )
    if quality.mean_area < MIN_AREA:
        raise PruningError(
            f"the selector collapsed to nothing (mean area {quality.mean_area:.3f}, target {target_area:.2f}): "
            "lower explainer.selector.area_weight or train the predictor for longer"
        )
    if not quality.kl < quality.kl_random:
        raise PruningError(
            f"the selector's positions are no better than random ones (KL {quality.kl:.3f} against "
            f"{quality.kl_random:.3f} nats): train predictor and selector for longer "
            "(explainer.predictor.epochs, explainer.selector.epochs)"
        )


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

    def update(self, _step: int, figures: Mapping[str, float]) -> None:
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

    The weights of the best epoch on validation images within ``AREA_BAND`` stay.

    Args:
        objective: of this ``predictor``: ``rbf_objective``, ``realx_objective``.
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
        error = abs(quality.mean_area / target_area - 1)
        return quality.kl if error <= AREA_BAND else 1e3 * (1 + error)

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
        after_step=weight.update,
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
