"""Train the selector (ISP Eq. 8) at a target area, judge it, and refuse one that explains nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..config import SelectorConfig
from ..data import Batch, BatchSource
from ..errors import PruningError
from ..progress import SILENT, Progress
from ..training import History, fit, one_cycle, to_device
from .predictor import Predictor, divergence
from .rbf import (
    area,
    fixed_draws,
    power_area,
    random_rbf,
    rbf_map,
    relaxed_bernoulli,
    roughness,
    same_area_centred,
)
from .selector import ExplainedClassifier

AREA_REACH, AREA_RATE = 20.0, (0.02, 0.1)
"""How fast the area weight follows: per step its logarithm moves by a rate times the relative error of the area.
The rate is AREA_REACH / steps within the limits AREA_RATE: short trainings must arrive too, long ones not swing."""

AREA_BAND = 0.2
"""An epoch whose mean area is further than this from the target (relative) is not a candidate for the best one."""

WHOLE_IMAGE, NOTHING = 0.85, 0.02
"""Mean areas beyond which a map says 'everything' or 'nothing'."""


@dataclass(frozen=True)
class SelectorQuality:
    """What a selector is worth on validation images. KL in nats, sigma in pixels, area as a share of the image.

    ``kl`` explains the true label and ``kl_predicted_label`` the predicted one; the other masks are what it must
    beat: same sigmas at the image's centre, same areas at the centre, same sigmas at random places.
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

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return asdict(self)


class _AreaWeight:
    """lambda_1: grows while the maps are too large, shrinks while they are too small (dual ascent on the area)."""

    def __init__(self, start: float, target: float, steps: int) -> None:
        self.value, self.target = start, target
        self.rate = min(max(AREA_REACH / steps, AREA_RATE[0]), AREA_RATE[1])

    def follow(self, _step: int, figures: Mapping[str, float]) -> None:
        error = figures["area"] / self.target - 1
        self.value = min(max(self.value * math.exp(self.rate * max(-1.0, min(1.0, error))), 1e-4), 1e4)


def train_selector(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    config: SelectorConfig,
    target_area: float,
    progress: Progress = SILENT,
) -> History:
    """min KL(Q_class(x) || q_pred(m * x)) + l1 R(m) + l2 S(m), m sampled once per image from f_sel(x; y).

    Classifier and predictor stay frozen; l1 follows ``target_area``. S(m) is taken on the probabilities: the noise
    of one sample would drown it.
    """
    network.classifier.eval().requires_grad_(False)
    predictor.eval().requires_grad_(False)
    weight = _AreaWeight(config.area_weight, target_area, config.epochs * len(train))
    side = network.selector.side

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        network.classifier.eval()
        logits, params = model(batch.images, batch.labels)
        probability = rbf_map(params, side)
        mask = relaxed_bernoulli(probability, config.temperature)
        kl = divergence(logits, predictor(batch.images, mask)).mean()
        mean_area = area(probability).mean()
        size = mean_area if config.area_term == "mean" else power_area(mask).mean()
        total = kl + weight.value * size + config.smooth_weight * roughness(probability)
        return {"loss": total, "kl": kl, "area": mean_area, "area_weight": torch.tensor(weight.value)}

    def validate() -> float:
        quality = judge_selector(network, predictor, val, fabric, brief=True)
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
        fabric,
        what="selector",
        epochs=config.epochs,
        schedule=one_cycle,
        max_norm=5.0,
        validate=validate,
        patience=config.patience,
        after_step=weight.follow,
        progress=progress,
    )
    network.eval().requires_grad_(False)
    return history


@torch.inference_mode()
def judge_selector(
    network: ExplainedClassifier, predictor: Predictor, val: BatchSource, fabric: Fabric, *, brief: bool = False
) -> SelectorQuality:
    """Measure a selector on validation images with its mean maps (no sampling). Leaves both in eval mode.

    ``brief`` leaves out the comparisons (they are NaN): for a value during training.
    """
    network.eval()
    predictor.eval()
    side = network.selector.side
    params, sums, count = [], torch.zeros(5, dtype=torch.float64), 0
    precision = fabric.autocast if brief else nullcontext  # learning may be quick, a verdict is in float32
    with fixed_draws(fabric.device):
        for batch in val.epoch(0):
            batch = to_device(batch, fabric.device)
            with precision():
                logits, found = network(batch.images, batch.labels)
                masks = [found]
                if not brief:
                    masks += _rivals(network, batch.images, found)
                for index, mask in enumerate(masks):
                    kl = divergence(logits, predictor(batch.images, rbf_map(mask, side)))
                    sums[index] += float(kl.sum())
            params.append(found.float().cpu())
            count += len(batch.images)
    every = torch.cat(params)
    low, median, high = every[:, 2].quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    kls = [float(value) / count for value in sums]
    rest = [math.nan] * 4 if brief else kls[1:]
    mean_area = float(area(rbf_map(every, side)).mean())
    spread = float(every[:, :2].std(0).mean())
    return SelectorQuality(mean_area, low, median, high, spread, kls[0], *rest)


def _rivals(network: ExplainedClassifier, images: Tensor, found: Tensor) -> list[Tensor]:
    """RBFs to compare with: for the predicted label; centred; centred with equal area; same sigmas anywhere."""
    side = network.selector.side
    _, predicted = network(images)
    centred = found.clone()
    centred[:, :2] = (side - 1) / 2
    anywhere = random_rbf(len(found), side, centre=(2.0, 30.0), sigma=(1.0, 1.0), device=found.device)
    anywhere[:, 2] = found[:, 2]
    return [predicted, centred, same_area_centred(area(rbf_map(found.float(), side)), side), anywhere]


def refuse_collapsed(quality: SelectorQuality, target_area: float) -> None:
    """Raise PruningError if the selector's maps cannot steer anything: the silent failure of amortized explainers."""
    if quality.mean_area > WHOLE_IMAGE:
        raise PruningError(
            f"the selector collapsed to the whole image (mean area {quality.mean_area:.2f}, target {target_area:.2f}, "
            f"median sigma {quality.sigma_median:.0f} px): its maps explain nothing; "
            "use explainer.selector.area_term=mean, raise explainer.selector.area_weight or train it for longer"
        )
    if quality.mean_area < NOTHING:
        raise PruningError(
            f"the selector collapsed to nothing (mean area {quality.mean_area:.3f}, target {target_area:.2f}): "
            "lower explainer.selector.area_weight or train the predictor for longer"
        )
    if not quality.kl < quality.kl_random:
        raise PruningError(
            f"the selector's places are no better than random ones (KL {quality.kl:.3f} against "
            f"{quality.kl_random:.3f} nats): train predictor and selector for longer "
            "(explainer.predictor.epochs, explainer.selector.epochs)"
        )


__all__ = ["SelectorQuality", "judge_selector", "refuse_collapsed", "train_selector"]
