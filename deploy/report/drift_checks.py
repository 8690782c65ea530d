"""Checks of saliency drift: limits of a budget file against what a run measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from compress.config import Section

from .checks import at_least, at_most
from .map_drift import EstimateFigures
from .schema import Check, Saliency

_NO_EXPLAINER: Final = (
    "the run has no explainer, so nothing is known of its saliency; set explainer.enabled and run again"
)
_OLD: Final = "the report has no such figure; run 'slimsight run' again to measure it"
_UNDEFINED: Final = "no image defines it: maps of one of the models say nothing"


class DriftLimits(Section):
    """At most ``center_px``, ``moved`` and ``lost`` (none unless said); at least ``iou`` and ``region_iou``."""

    center_px: float | None = None
    iou: float | None = None
    region_iou: float | None = None
    moved: float | None = None
    lost: float | None = None


def drift_within(found: Saliency | None, limits: DriftLimits) -> Iterator[Check]:
    """A check per limit, of the mean over images.

    Lost explanations are always checked: means are over the images that still have one.
    """
    maps = None if found is None else found.maps
    without = _NO_EXPLAINER if found is None else _OLD

    def mean(figure: EstimateFigures | None) -> tuple[float | None, str | None]:
        if figure is None:
            return None, without
        return figure.mean, _UNDEFINED if figure.mean is None else None

    if limits.center_px is not None:
        value = None if found is None else found.center_drift_px
        reason = without if found is None else None
        yield at_most("saliency drift, centre", limits.center_px, value, "px", reason=reason)
    if limits.iou is not None:
        value = None if found is None else found.iou
        reason = without if found is None else None
        yield at_least("saliency drift, overlap of maps", limits.iou, value, "overlap", reason=reason)
    if limits.region_iou is not None:
        value, reason = mean(None if maps is None else maps.region_iou)
        yield at_least("saliency drift, overlap of regions", limits.region_iou, value, "overlap", reason=reason)
    if limits.moved is not None:
        value, reason = mean(None if maps is None else maps.moved)
        yield at_most("saliency drift, top region moved", limits.moved, value, "images", reason=reason)
    if limits.lost is not None or maps is not None:
        value, reason = (None, without) if maps is None else (maps.lost, None)
        yield at_most("saliency drift, explanation lost", limits.lost or 0.0, value, "images", reason=reason)
