"""Judge a selector on validation images, and refuse one that explains nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ...data import Batch, BatchSource, one_pass
from ...errors import PruningError
from ...training import to_device
from .predictor import Predictor, divergence
from .rbf import area, fixed_draws
from .selector import ExplainedClassifier

Sample = Callable[[Tensor], Tensor]
"""Masks drawn from maps of probabilities (N, 1, H, W): what a predictor looks through that knows no other ones."""

WHOLE_IMAGE, NOTHING = 0.85, 0.02
"""Mean areas beyond which a map says 'everything' or 'nothing'."""


@dataclass(frozen=True)
class SelectorQuality:
    """What a selector is worth on validation images. KL in nats, sigma in pixels, area as a share of the image.

    ``kl`` explains the true label and ``kl_predicted_label`` the predicted one; the other masks are what it must
    beat: the same maps moved to the image's centre, radial ones of the same areas there, the same maps at random
    places. Sigma and centre of a map that is not radial are those of its mass (``moments_of``).
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
    """Measure a selector on validation images with its mean maps. Leaves both in eval mode.

    Args:
        brief: leave out the comparisons (they are NaN): for a value during training.
        sample: draws the masks to look through, for a predictor that has seen nothing but hard ones; None: the maps.
    """
    network.eval()
    predictor.eval()
    head = network.selector.head
    precision = fabric.autocast if brief else nullcontext  # learning may be quick, a verdict is in float32

    def work(number: int, batch: Batch) -> tuple[list[float], float, Tensor]:
        batch = to_device(batch, fabric.device)
        with fixed_draws(fabric.device, number), precision():
            logits, found = network(batch.images, batch.labels)
            masks = [head.to_maps(found)]
            if not brief:
                predicted = head.to_maps(network(batch.images)[1])
                masks += [predicted, *head.rivals(found)]
            seen = masks if sample is None else [_drawn(sample, mask) for mask in masks]
            sums = [float(divergence(logits, predictor(batch.images, mask)).sum()) for mask in seen]
        found = found.float()
        return sums, float(area(head.to_maps(found)).sum()), head.to_moments(found).cpu()

    sums, areas, moments = zip(*one_pass(val, work), strict=True)
    every = torch.cat(moments)
    count = len(every)
    low, median, high = every[:, 2].quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    kls = [sum(values) / count for values in zip(*sums, strict=True)]
    rest = [math.nan] * 4 if brief else kls[1:]
    spread = float(every[:, :2].std(0).mean())
    return SelectorQuality(sum(areas) / count, low, median, high, spread, kls[0], *rest)


def _drawn(sample: Sample, maps: Tensor) -> Tensor:
    """With the same noise for all masks: they are compared on equal terms, whether there are rivals or not."""
    with fixed_draws(maps.device):
        return sample(maps)


def refuse_collapsed(quality: SelectorQuality, target_area: float, kind: str = "rbf") -> None:
    """Raise PruningError if the selector's maps cannot steer anything: the silent failure of amortized explainers."""
    if quality.mean_area > WHOLE_IMAGE:
        softer = "use explainer.selector.area_term=mean, " if kind == "rbf" else ""  # others have no other term
        raise PruningError(
            f"the selector collapsed to the whole image (mean area {quality.mean_area:.2f}, target {target_area:.2f}, "
            f"median sigma {quality.sigma_median:.0f} px): its maps explain nothing; "
            f"{softer}raise explainer.selector.area_weight or train it for longer"
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
