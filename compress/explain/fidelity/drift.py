"""How far the explanations of a slim model moved from the original's, by any explainer, on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import torch
from torch import Tensor

from ...data import BatchSource
from ...errors import DataError
from ...progress import SILENT, Progress
from ...training import to_device
from ..base import Explainer, Saliency
from .estimate import Estimate
from .similarity import CONSTANT, INFORMATIVE, ZERO, centres_of_mass, kinds_of, mass_of, region, spearman

REGION: Final = 0.5
"""Share of a map's mass that its region holds: the smallest set of pixels that does."""

TOP: Final = 0.1
"""Share of a map's mass that its top region holds."""

FAR: Final = 1 / 8
"""Of the longer side: a centre that moved further has moved, wherever the top region is."""

WORST: Final = 8
"""Images that are named."""

_CHUNK: Final = 256

_SMOOTHING: Final = 1e-3  # mass of a uniform map mixed in: divergence stays finite where a map is exactly zero


@dataclass(frozen=True)
class ImageDrifts:
    """One row per image (N,); NaN where the two maps do not define a figure.

    Maps are compared by their mass: the non-negative part of ``Saliency.importance``.

    Args:
        indices: positions of the images in their set.
        center_px: distance of the centres (of mass; the explainer's own where it has parameters), pixels.
        region_iou: overlap of the regions that hold half of each map's mass, 0..1.
        spearman: rank correlation of the pixels.
        kl: KL(original || slim) of the maps as distributions over pixels, nats; a thousandth of each is uniform.
        moved: 1 where the top regions (a tenth of the mass) share no pixel, or the centre went further than an
            eighth of the side.
        original: SAYS, CONSTANT or ZERO, of the original's map; ``slim`` the same.

    Where one of the two maps says nothing, the explanation is lost: overlap 0, moved, and nothing else is defined.
    Where neither says anything, no figure is.
    """

    indices: Tensor
    center_px: Tensor
    region_iou: Tensor
    spearman: Tensor
    kl: Tensor
    moved: Tensor
    original: Tensor
    slim: Tensor

    @classmethod
    def joined(cls, parts: Sequence[ImageDrifts]) -> ImageDrifts:
        """The rows of all parts."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@dataclass(frozen=True)
class ImageDrift:
    """One image's figures; None where its maps do not define one."""

    index: int
    center_px: float | None
    region_iou: float | None
    spearman: float | None
    kl: float | None
    moved: bool | None


@dataclass(frozen=True)
class MapDrift:
    """Means over images with their standard errors; see ``ImageDrifts`` for the figures.

    Args:
        images: compared, those whose maps say nothing included.
        lost: share of images on which exactly one of the two models has a map that says something.
        degenerate: maps of ``original`` and ``slim`` that say nothing, counted by how: ``constant``, ``zero``.
        worst: the images that drifted most, by overlap, then by distance of centres; worst first.
    """

    explainer: str
    images: int
    center_px: Estimate
    region_iou: Estimate
    spearman: Estimate
    kl: Estimate
    moved: Estimate
    lost: float
    degenerate: dict[str, dict[str, int]]
    worst: tuple[ImageDrift, ...]
    each: ImageDrifts = field(repr=False, compare=False)
    """What the means are over, for paired differences."""

    @classmethod
    def of(cls, explainer: str, each: ImageDrifts, *, worst: int = WORST) -> MapDrift:
        """The summary of ``each``; ``worst`` images are named."""
        says_one = (each.original == INFORMATIVE) != (each.slim == INFORMATIVE)
        return cls(
            explainer=explainer,
            images=len(each.indices),
            center_px=Estimate.of(each.center_px),
            region_iou=Estimate.of(each.region_iou),
            spearman=Estimate.of(each.spearman),
            kl=Estimate.of(each.kl),
            moved=Estimate.of(each.moved),
            lost=float(says_one.double().mean()),
            degenerate={
                model: {name: int((kinds == kind).sum()) for name, kind in (("constant", CONSTANT), ("zero", ZERO))}
                for model, kinds in (("original", each.original), ("slim", each.slim))
            },
            worst=_worst(each, worst),
            each=each,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the rows of single images but the worst."""
        estimates = ("center_px", "region_iou", "spearman", "kl", "moved")
        return {
            "explainer": self.explainer,
            "images": self.images,
            **{name: getattr(self, name).to_dict() for name in estimates},
            "lost": self.lost,
            "degenerate": self.degenerate,
            "worst": [vars(image) for image in self.worst],
        }


def drift_by(
    original: Explainer,
    slim: Explainer,
    batches: BatchSource,
    *,
    worst: int = WORST,
    progress: Progress = SILENT,
) -> MapDrift:
    """Drift between two explainers of one kind over one pass, each made with its own model.

    Both explain the images' labels: a class that one of them would not predict must not pass for a moved map.

    Raises:
        DataError: a map that is not finite, or not as large as the image.
    """
    assert original.name == slim.name, "maps of different explainers do not compare"
    what = f"drift by {original.name}"
    passes = progress.track(batches.epoch(0), what, total=len(batches), unit="img", scale=batches.batch_size)
    parts = []
    for batch in passes:
        batch = to_device(batch, batch.images.device)
        before, after = (each.explain(batch.images, batch.labels) for each in (original, slim))
        parts.append(compare_maps(before, after, batch.indices))
    return MapDrift.of(original.name, ImageDrifts.joined(parts), worst=worst)


def drift_of_numbers(
    explainer: str,
    original: Tensor,
    slim: Tensor,
    to_saliency: Callable[[Tensor], Saliency],
    *,
    most: int = 5000,
    worst: int = WORST,
) -> MapDrift:
    """Drift between what an amortized explainer said twice (N, ...), in the numbers that mean its maps.

    Of at most ``most`` images, spread evenly: ranking the pixels of large maps costs more than making them.
    """
    chosen = torch.arange(len(original))
    if len(original) > most:
        chosen = torch.linspace(0, len(original) - 1, most, dtype=torch.float64).round().long()
    parts = [
        compare_maps(to_saliency(original[some]), to_saliency(slim[some]), some) for some in torch.split(chosen, _CHUNK)
    ]
    return MapDrift.of(explainer, ImageDrifts.joined(parts), worst=worst)


@torch.no_grad()
def compare_maps(original: Saliency, slim: Saliency, indices: Tensor | None = None) -> ImageDrifts:
    """Row by row, what two models say of the same images.

    Raises:
        DataError: a map that is not finite, or maps of different sizes.
    """
    if original.maps.shape != slim.maps.shape:
        raise DataError(
            f"maps {tuple(original.maps.shape)} and {tuple(slim.maps.shape)} do not compare: explain the same images "
            "with both models"
        )
    before, after = _mass(original, "original"), _mass(slim, "slim")
    kinds = kinds_of(before), kinds_of(after)
    both, one = _either(kinds)
    nothing = torch.full((len(before),), math.nan, dtype=torch.float64)

    def where_both(values: Tensor) -> Tensor:
        return torch.where(both, values, nothing)

    distance = (_centres(original, before) - _centres(slim, after)).norm(dim=1)
    overlap = _iou(region(before, REGION), region(after, REGION))
    disjoint = ~(region(before, TOP) & region(after, TOP)).flatten(1).any(1)
    moved = disjoint | (distance > FAR * max(before.shape[1:]))
    ranks = spearman(original.importance.detach().cpu(), slim.importance.detach().cpu())
    return ImageDrifts(
        indices=torch.arange(len(before)) if indices is None else indices.cpu(),
        center_px=where_both(distance),
        region_iou=torch.where(one, 0.0, where_both(overlap)),
        spearman=where_both(ranks),
        kl=where_both(_divergence(before, after)),
        moved=torch.where(one, 1.0, where_both(moved.double())),
        original=kinds[0],
        slim=kinds[1],
    )


def _mass(saliency: Saliency, model: str) -> Tensor:
    if not saliency.maps.isfinite().all():
        raise DataError(
            f"a map of the {model} model holds NaN or infinity: it cannot be compared, take another explainer"
        )
    return mass_of(saliency)


def _either(kinds: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    a, b = (kind == INFORMATIVE for kind in kinds)
    return a & b, a != b


def _centres(saliency: Saliency, mass: Tensor) -> Tensor:
    """The explainer's own, where it says so in numbers (rbf), else of mass."""
    own = saliency.parameters
    return centres_of_mass(mass) if own is None else own.detach()[:, :2].double().cpu()


def _iou(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours & theirs).flatten(1).sum(1).double() / (ours | theirs).flatten(1).sum(1).clamp_min(1)


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    p, q = (_distribution(mass) for mass in (before, after))
    return (p * (p / q).log()).sum(1).clamp_min(0)


def _distribution(mass: Tensor) -> Tensor:
    flat = mass.flatten(1)
    return (1 - _SMOOTHING) * flat / flat.sum(1, keepdim=True) + _SMOOTHING / flat.shape[1]


def _worst(each: ImageDrifts, count: int) -> tuple[ImageDrift, ...]:
    rows = [
        ImageDrift(
            index=int(each.indices[row]),
            center_px=_number(each.center_px[row]),
            region_iou=_number(each.region_iou[row]),
            spearman=_number(each.spearman[row]),
            kl=_number(each.kl[row]),
            moved=None if each.moved[row].isnan() else bool(each.moved[row]),
        )
        for row in (~each.region_iou.isnan()).nonzero()[:, 0].tolist()
    ]
    rows.sort(key=lambda row: (row.region_iou, -math.inf if row.center_px is None else -row.center_px, row.index))
    return tuple(rows[:count])


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
