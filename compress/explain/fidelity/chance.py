"""Drift of maps beside its chance level: how near the original's map of another image is to its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...progress import SILENT, Progress
from ..base import Explainer, Saliency
from .drift import MapDrift, compare_maps
from .estimate import Estimate

_CHUNK = 16


@dataclass(frozen=True)
class DriftAgainstChance:
    """How far maps moved, and how far they would be from each other if they were of different images.

    Args:
        chance: overlap (``region_iou``) of the original's map with its own map of another image.
        share: (1 - overlap) / (1 - mean chance), per image: 0 where the maps are the same, 1 where the slim model's
            map is no nearer than another image's.
    """

    drift: MapDrift
    chance: Estimate
    share: Estimate


def drift_against_chance(
    original: Explainer, slim: Explainer, images: Tensor, labels: Tensor, *, progress: Progress = SILENT
) -> DriftAgainstChance:
    """Compare the maps of two models, and those of the original between images.

    Args:
        images: (N, 3, H, W) in [0, 1], N at least 2.
        labels: (N,) the class to explain. Another image is the one half of the set away in the order of the labels:
            of another class, unless one class has half of the images.

    Raises:
        DataError: a map that is not finite.
        ModelError: the models lack something that this explainer needs.
    """
    assert len(images) > 1
    parts: tuple[list[Saliency], list[Saliency]] = ([], [])
    chunks = torch.split(torch.arange(len(images)), _CHUNK)
    what = f"where {original.name} looks"
    for rows in progress.track(chunks, what, total=len(chunks), unit="img", scale=_CHUNK):
        for found, explainer in zip(parts, (original, slim), strict=True):
            saliency = explainer.explain(images[rows], labels[rows])
            found.append(Saliency(saliency.maps.detach().cpu(), signed=saliency.signed))
    before, after = (Saliency(torch.cat([part.maps for part in found]), signed=found[0].signed) for found in parts)
    each = compare_maps(before, after)
    order = torch.argsort(labels.cpu(), stable=True)
    other = torch.empty_like(order)
    other[order] = order.roll(len(order) // 2)
    between = Estimate.of(compare_maps(before, Saliency(before.maps[other], signed=before.signed)).region_iou)
    room = 1 - between.mean if between.mean is not None and between.mean < 1 else None
    shares = (1 - each.region_iou) / room if room is not None else torch.full_like(each.region_iou, torch.nan)
    return DriftAgainstChance(MapDrift.of(original.name, each), between, Estimate.of(shares))
