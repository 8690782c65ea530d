"""Drift of explanations between original and slim model, by any explainer, on the same images."""

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
from .similarity import CONSTANT, INFORMATIVE, ZERO, centres_of_mass, map_kinds, mass_of, region, spearman

REGION: Final = 0.5
"""Share of a map's mass in its region, the smallest set of pixels that has it."""

TOP: Final = 0.1
"""Share of a map's mass in its top region."""

FAR: Final = 1 / 8
"""Share of the longer side: a map counts as moved if its centre moved further, whatever its top region."""

WORST: Final = 8
"""Number of images that are listed."""

_CHUNK: Final = 256

_SMOOTHING: Final = 1e-3  # mass of a uniform map mixed in: divergence stays finite where a map is exactly zero


@dataclass(frozen=True)
class ImageDrifts:
    """Drift per image, columns (N,); NaN where the two maps do not define a figure.

    Maps are compared by their mass: the non-negative part of ``Saliency.importance``.

    Args:
        indices: positions of the images in their set.
        center_px: distance of the centres (of mass, or the explainer's parameters), pixels.
        region_iou: overlap of the regions with half of each map's mass, 0..1.
        spearman: rank correlation of the pixels.
        kl: KL(original || slim) of the maps as distributions over pixels, nats; a thousandth of each is uniform.
        moved: 1 where the top regions (a tenth of the mass) share no pixel, or the centre moved further than an
            eighth of the side.
        original: INFORMATIVE, CONSTANT or ZERO, of the original's map; ``slim`` the same.

    Where only one of the two maps is informative, the explanation is lost: overlap 0, moved, no other figure defined.
    Where neither is, no figure is defined.
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
        """Concatenate the rows of all parts."""
        return cls(*(torch.cat([getattr(part, column.name) for part in parts]) for column in fields(cls)))


@dataclass(frozen=True)
class ImageDrift:
    """Drift of one image; None where its maps do not define a figure."""

    index: int
    center_px: float | None
    region_iou: float | None
    spearman: float | None
    kl: float | None
    moved: bool | None


@dataclass(frozen=True)
class MapDrift:
    """Drift by one explainer, means over images with standard errors; see ``ImageDrifts`` for the figures.

    Args:
        images: number of images, those with uninformative maps included.
        lost: share of images on which exactly one of the two models has an informative map.
        degenerate: number of uninformative maps of ``original`` and of ``slim``: ``constant``, ``zero``.
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
    """The rows that the means are over, for paired differences."""

    @classmethod
    def of(cls, explainer: str, each: ImageDrifts, *, worst: int = WORST) -> MapDrift:
        """Summarise ``each``, with a list of its ``worst`` images."""
        lost = (each.original == INFORMATIVE) != (each.slim == INFORMATIVE)
        return cls(
            explainer=explainer,
            images=len(each.indices),
            center_px=Estimate.of(each.center_px),
            region_iou=Estimate.of(each.region_iou),
            spearman=Estimate.of(each.spearman),
            kl=Estimate.of(each.kl),
            moved=Estimate.of(each.moved),
            lost=float(lost.double().mean()),
            degenerate={
                model: {name: int((kinds == kind).sum()) for name, kind in (("constant", CONSTANT), ("zero", ZERO))}
                for model, kinds in (("original", each.original), ("slim", each.slim))
            },
            worst=_worst_images(each, worst),
            each=each,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with only the worst images listed."""
        estimates = ("center_px", "region_iou", "spearman", "kl", "moved")
        return {
            "explainer": self.explainer,
            "images": self.images,
            **{name: getattr(self, name).to_dict() for name in estimates},
            "lost": self.lost,
            "degenerate": self.degenerate,
            "worst": [vars(image) for image in self.worst],
        }


def explainer_drift(
    original: Explainer,
    slim: Explainer,
    batches: BatchSource,
    *,
    worst: int = WORST,
    progress: Progress = SILENT,
) -> MapDrift:
    """Drift between the same explainer of two models over one pass.

    Both explain the images' labels: a changed prediction must not count as a moved map.

    Raises:
        DataError: a map that is not finite, or not as large as the image.
    """
    assert original.name == slim.name, "maps of different explainers do not compare"
    what = f"drift by {original.name}"
    tracked = progress.track(batches.epoch(0), what, total=len(batches), unit="img", scale=batches.batch_size)
    parts = []
    for batch in tracked:
        batch = to_device(batch, batch.images.device)
        before, after = (explainer.explain(batch.images, batch.labels) for explainer in (original, slim))
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
    """Drift between two sets of an amortized explainer's numbers (N, ...), which ``to_saliency`` turns into maps.

    Of at most ``most`` images, evenly spaced: ranking the pixels of large maps costs more than making them.
    """
    chosen = torch.arange(len(original))
    if len(original) > most:
        chosen = torch.linspace(0, len(original) - 1, most, dtype=torch.float64).round().long()
    parts = [
        compare_maps(to_saliency(original[rows]), to_saliency(slim[rows]), rows) for rows in torch.split(chosen, _CHUNK)
    ]
    return MapDrift.of(explainer, ImageDrifts.joined(parts), worst=worst)


@torch.no_grad()
def compare_maps(original: Saliency, slim: Saliency, indices: Tensor | None = None) -> ImageDrifts:
    """Drift between two models' maps of the same images, row by row.

    Raises:
        DataError: a map that is not finite, or maps of different sizes.
    """
    if original.maps.shape != slim.maps.shape:
        raise DataError(
            f"maps {tuple(original.maps.shape)} and {tuple(slim.maps.shape)} do not compare: explain the same images "
            "with both models"
        )
    before, after = _checked_mass(original, "original"), _checked_mass(slim, "slim")
    kinds = map_kinds(before), map_kinds(after)
    both, one = _informative(kinds)
    undefined = torch.full((len(before),), math.nan, dtype=torch.float64)

    def where_both(values: Tensor) -> Tensor:
        return torch.where(both, values, undefined)

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


def _checked_mass(saliency: Saliency, model: str) -> Tensor:
    if not saliency.maps.isfinite().all():
        raise DataError(
            f"a map of the {model} model holds NaN or infinity: it cannot be compared, take another explainer"
        )
    return mass_of(saliency)


def _informative(kinds: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """(N,), (N,) bool: whether both maps are informative, and whether exactly one is."""
    a, b = (kind == INFORMATIVE for kind in kinds)
    return a & b, a != b


def _centres(saliency: Saliency, mass: Tensor) -> Tensor:
    """(N, 2) centres: the explainer's parameters if it has any (rbf), else centres of mass."""
    parameters = saliency.parameters
    return centres_of_mass(mass) if parameters is None else parameters.detach()[:, :2].double().cpu()


def _iou(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours & theirs).flatten(1).sum(1).double() / (ours | theirs).flatten(1).sum(1).clamp_min(1)


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    p, q = (_smoothed_distribution(mass) for mass in (before, after))
    return (p * (p / q).log()).sum(1).clamp_min(0)


def _smoothed_distribution(mass: Tensor) -> Tensor:
    flat = mass.flatten(1)
    return (1 - _SMOOTHING) * flat / flat.sum(1, keepdim=True) + _SMOOTHING / flat.shape[1]


def _worst_images(each: ImageDrifts, count: int) -> tuple[ImageDrift, ...]:
    rows = [
        ImageDrift(
            index=int(each.indices[row]),
            center_px=_number_or_none(each.center_px[row]),
            region_iou=_number_or_none(each.region_iou[row]),
            spearman=_number_or_none(each.spearman[row]),
            kl=_number_or_none(each.kl[row]),
            moved=None if each.moved[row].isnan() else bool(each.moved[row]),
        )
        for row in (~each.region_iou.isnan()).nonzero()[:, 0].tolist()
    ]
    rows.sort(key=lambda row: (row.region_iou, -math.inf if row.center_px is None else -row.center_px, row.index))
    return tuple(rows[:count])


def _number_or_none(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
