"""Limits on saliency drift against what a run measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..report.map_drift import EstimateFigures
from .figures import Figures
from .limit import Limit
from .schema import DriftLimits
from .verdict import Judged, judged

_NO_EXPLAINER: Final = (
    "the run has no explainer, so nothing is known of its saliency; set explainer.enabled and run again"
)
_OLD: Final = "the report has no such figure; run 'slimsight run' again to measure it"
_UNDEFINED: Final = "no image defines it: maps of one of the models say nothing"


def drift_judged(figures: Figures, limits: DriftLimits) -> Iterator[Judged]:
    """A check per limit, of the mean over images.

    Lost explanations are always checked: means are over the images that still have one.
    """
    found = None if figures.report is None else figures.report.saliency
    maps = None if found is None else found.maps
    without = _NO_EXPLAINER if found is None else _OLD
    if figures.report is None:
        without = f"{figures.kind} has no explanations to compare: check the run that made it, or remove the line"

    def mean(figure: EstimateFigures | None) -> tuple[float | None, str | None]:
        if figure is None:
            return None, without
        return figure.mean, _UNDEFINED if figure.mean is None else None

    def key(name: str) -> tuple[str, str]:
        return "saliency_drift", name

    if limits.center_px is not None:
        value = None if found is None else found.center_drift_px
        reason = without if found is None else None
        name = "saliency drift, centre"
        yield judged(key("center_px"), name, limits.center_px, value, "px", bound="max", reason=reason)
    if limits.iou is not None:
        value = None if found is None else found.iou
        reason = without if found is None else None
        name = "saliency drift, overlap of maps"
        yield judged(key("iou"), name, limits.iou, value, "overlap", bound="min", reason=reason)
    if limits.region_iou is not None:
        value, reason = mean(None if maps is None else maps.region_iou)
        name = "saliency drift, overlap of regions"
        yield judged(key("region_iou"), name, limits.region_iou, value, "overlap", bound="min", reason=reason)
    if limits.moved is not None:
        value, reason = mean(None if maps is None else maps.moved)
        name = "saliency drift, top region moved"
        yield judged(key("moved"), name, limits.moved, value, "images", bound="max", reason=reason)
    if limits.lost is not None or maps is not None:
        value, reason = (None, without) if maps is None else (maps.lost, None)
        name = "saliency drift, explanation lost"
        yield judged(key("lost"), name, limits.lost or Limit(0.0), value, "images", bound="max", reason=reason)
