"""Quality of a selector on validation images, against masks of equal area; when it is refused, or hopeless early."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ...data import Batch, BatchSource, one_pass
from ...errors import ExplainerRefused
from ...training import to_device
from ..fidelity.estimate import Estimate
from .predictor import Predictor, divergence
from .rbf import area, centre_reach, fixed_draws
from .selector import ExplainedClassifier

Sample = Callable[[Tensor], Tensor]
"""Draws masks from maps of probabilities (N, 1, H, W), for a predictor that was trained on sampled masks."""

Extent = Literal["full", "equal_area", "brief"]
"""Controls that are measured: all, those of equal area, none (their figures are NaN)."""

MAX_AREA, MIN_AREA = 0.85, 0.02
"""Mean areas beyond which a selector has collapsed to the whole image, or to nothing."""

CORNER = 0.75
"""Share of the way from the middle to the furthest row and column beyond which a centre lies in a corner."""

CORNERED = 0.9
"""Share of the images with their map centred in a corner beyond which a selector is stuck there."""

_CLEARLY = 2.0
"""Standard errors by which a selector is clearly worse than a control."""

_LONGER = "train predictor and selector for longer (explainer.predictor.epochs, explainer.selector.epochs)"


@dataclass(frozen=True)
class SelectorQuality:
    """Quality of a selector on validation images. KL in nats, sigma in pixels, area as a share of the image.

    ``kl`` explains the true label and ``kl_predicted_label`` the predicted one. The others are of control masks: the
    same maps moved to the image's centre, or to random positions, where the border cuts off another part of them; and,
    each with the area of the image's own map, centred radial ones and maps at random positions (``same_area``).

    ``gain_centred``, ``gain_random``: mean over images of the KL of these two minus ``kl``, above 0 where the selector
    is better, with its standard error (None of a single image). ``cornered``: share of images whose map is centred in
    a corner. Sigma and centre of a map that is not radial are those of its mass (``map_moments``).
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
    kl_random_same_area: float
    gain_centred: float
    gain_centred_error: float | None
    gain_random: float
    gain_random_error: float | None
    cornered: float
    images: int

    def in_words(self) -> str:
        """One line."""
        return (
            f"mean area {self.mean_area:.3f}, sigma {self.sigma_median:.1f} px, KL {self.kl:.3f} (same area: centred "
            f"{self.kl_centred_same_area:.3f}, random {self.kl_random_same_area:.3f}), better than centred by "
            f"{_with_error(self.gain_centred, self.gain_centred_error)} over {self.images:,} images"
        )

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON form."""
        return asdict(self)

    @property
    def beats_centred(self) -> bool:
        """Whether it is better than centred masks of the same area by more than the standard error."""
        return self.gain_centred_error is not None and self.gain_centred > self.gain_centred_error

    @property
    def beats_random(self) -> bool:
        """Whether it is better than masks of the same area at random positions by more than the standard error."""
        return self.gain_random_error is not None and self.gain_random > self.gain_random_error


def _with_error(gain: float, error: float | None) -> str:
    return f"{gain:.3f}" if error is None else f"{gain:.3f} \N{PLUS-MINUS SIGN} {error:.3f}"


@torch.inference_mode()
def judge_selector(
    network: ExplainedClassifier,
    predictor: Predictor,
    val: BatchSource,
    fabric: Fabric,
    *,
    extent: Extent = "full",
    sample: Sample | None = None,
) -> SelectorQuality:
    """Measure a selector on validation images. Leaves network and predictor in eval mode.

    Args:
        extent: which controls; ``brief`` for validation during training, which may be in half precision.
        sample: draws masks from the maps, for a predictor that was trained on hard ones only; None: the maps are used.
    """
    network.eval()
    predictor.eval()
    head = network.selector.head
    precision = fabric.autocast if extent == "brief" else nullcontext  # the final measure is in float32

    def work(number: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = to_device(batch, fabric.device)
        with precision():
            logits, numbers = network(batch.images, batch.labels)
            masks = {"kl": head.to_maps(numbers)}
            if extent == "full":
                masks["kl_predicted_label"] = head.to_maps(network(batch.images)[1])
                with fixed_draws(fabric.device, number):
                    masks["kl_centred"], masks["kl_random"] = head.control_masks(numbers)
            if extent != "brief":
                with fixed_draws(fabric.device, number):  # the same positions
                    masks["kl_centred_same_area"], masks["kl_random_same_area"] = head.equal_area_masks(numbers)
            drawn = masks if sample is None else {name: _sample_fixed(sample, mask) for name, mask in masks.items()}
            rows = torch.full((len(_MASKS), len(numbers)), math.nan, dtype=torch.float64)
            for name, mask in drawn.items():
                rows[_MASKS.index(name)] = divergence(logits, predictor(batch.images, mask)).double().cpu()
        numbers = numbers.float()
        return rows, area(head.to_maps(numbers)).cpu(), head.to_moments(numbers).cpu()

    kls, areas, moments = zip(*one_pass(val, work), strict=True)
    return _to_quality(torch.cat(kls, 1), torch.cat(areas), torch.cat(moments), network.selector.side)


_MASKS = (
    "kl",
    "kl_predicted_label",
    "kl_centred",
    "kl_centred_same_area",
    "kl_random",
    "kl_random_same_area",
)


def _to_quality(kls: Tensor, areas: Tensor, moments: Tensor, side: int) -> SelectorQuality:
    """From KLs (masks of ``_MASKS``, N), areas (N,) and moments (N, 3) of all images."""
    of = dict(zip(_MASKS, kls, strict=True))
    centred, at_random = (Estimate.of(of[name] - of["kl"]) for name in ("kl_centred_same_area", "kl_random_same_area"))
    low, median, high = moments[:, 2].quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    outside = (moments[:, :2] - side / 2).abs() > CORNER * centre_reach(side)
    return SelectorQuality(
        float(areas.mean()),
        low,
        median,
        high,
        float(moments[:, :2].std(0).mean()) if len(moments) > 1 else 0.0,
        **{name: float(values.mean()) for name, values in of.items()},
        gain_centred=math.nan if centred.mean is None else centred.mean,
        gain_centred_error=centred.standard_error,
        gain_random=math.nan if at_random.mean is None else at_random.mean,
        gain_random_error=at_random.standard_error,
        cornered=float(outside.all(1).double().mean()),
        images=len(moments),
    )


def _sample_fixed(sample: Sample, maps: Tensor) -> Tensor:
    """Draw with the same noise for all masks, so that they compare, and ``kl`` does not depend on the controls."""
    with fixed_draws(maps.device):
        return sample(maps)


def collapse(quality: SelectorQuality, target_area: float, kind: str = "rbf") -> str | None:
    """A sentence on maps that cover the whole image or nothing; None: they do neither."""
    if quality.mean_area > MAX_AREA:
        softer = "use explainer.selector.area_term=mean, " if kind == "rbf" else ""  # others have no other term
        return (
            f"the selector collapsed to the whole image (mean area {quality.mean_area:.2f}, target {target_area:.2f}, "
            f"median sigma {quality.sigma_median:.0f} px): its maps explain nothing; "
            f"{softer}raise explainer.selector.area_weight or train it for longer"
        )
    if quality.mean_area < MIN_AREA:
        return (
            f"the selector collapsed to nothing (mean area {quality.mean_area:.3f}, target {target_area:.2f}): "
            "lower explainer.selector.area_weight or train the predictor for longer"
        )
    return None


def refuse_collapsed(quality: SelectorQuality, target_area: float, kind: str = "rbf") -> None:
    """Refuse a selector that collapsed, the silent failure of amortized explainers, or that is no better than controls.

    Raises:
        ExplainerRefused: its maps cover the image or nothing, or are not better than centred masks, and masks at random
            positions, of the same area, by more than the standard error of the difference paired by image.
    """
    collapsed = collapse(quality, target_area, kind)
    if collapsed is not None:
        raise ExplainerRefused(collapsed)
    if not quality.beats_centred:
        raise ExplainerRefused(f"{_no_better_than_centred(quality)}; {_LONGER}")
    if not quality.beats_random:
        raise ExplainerRefused(
            f"the selector's positions are no better than random ones at the same area (KL {quality.kl:.3f} against "
            f"{quality.kl_random_same_area:.3f} nats, {_margin(quality.gain_random, quality)}; "
            f"{_needed(quality.gain_random_error)}); {_LONGER}"
        )


def _no_better_than_centred(quality: SelectorQuality) -> str:
    """The figures of the comparison with centred masks."""
    return (
        f"the selector's masks are no better than centred ones of the same area (KL {quality.kl:.3f} against "
        f"{quality.kl_centred_same_area:.3f} nats, {_margin(quality.gain_centred, quality)}; "
        f"{_needed(quality.gain_centred_error)}; at random positions {quality.kl_random_same_area:.3f})"
    )


def _margin(gain: float, quality: SelectorQuality) -> str:
    words = "better" if gain > 0 else "worse"
    return f"{abs(gain):.3f} {words} over {quality.images:,} images"


def _needed(error: float | None) -> str:
    if error is None:
        return "its standard error is not defined for one image: give more validation images"
    return f"it must be better by more than the standard error of {error:.3f}"


def hopeless(quality: SelectorQuality, target_area: float, kind: str, *, late: bool) -> str | None:
    """Why a selector that still learns will explain nothing; None: it may.

    At any time: maps stuck in a corner, which explain no more than centred ones of the same area. Late, as the area and
    the positions take time to be found: maps that cover the whole image or nothing, or that are clearly worse than
    masks of the same area both at the centre and at random positions.
    """
    if not math.isfinite(quality.kl):
        return f"the selector's maps give a KL of {quality.kl}: lower explainer.selector.lr"
    if quality.cornered >= CORNERED and not quality.beats_centred:
        return (
            f"the selector is stuck: {100 * quality.cornered:.0f} % of its maps are centred in a corner, and "
            f"{_no_better_than_centred(quality)}; lower explainer.selector.lr or train the predictor for longer "
            "(explainer.predictor.epochs)"
        )
    if not late:
        return None
    if (collapsed := collapse(quality, target_area, kind)) is not None:
        return collapsed
    gains = ((quality.gain_centred, quality.gain_centred_error), (quality.gain_random, quality.gain_random_error))
    if all(error is not None and gain < -_CLEARLY * error for gain, error in gains):
        return f"{_no_better_than_centred(quality)}, which is clearly worse than both; lower explainer.selector.lr"
    return None
