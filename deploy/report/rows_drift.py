"""Tables of the report on drift of saliency maps."""

from __future__ import annotations

from .map_drift import EstimateFigures, MapDriftFigures
from .schema import Report
from .tables import Table
from .units import MISSING, as_count, as_percent


def map_drift(report: Report) -> Table:
    """Figures that compare between explainers, each with its standard error."""
    found = _maps(report)
    rows = [
        ["centre moved by, px", *_cells(found.center_px)],
        ["overlap of the regions with half of the mass", *_cells(found.region_iou, percent=True)],
        ["rank correlation of pixels", *_cells(found.spearman)],
        ["divergence of the maps, nats", *_cells(found.kl)],
        ["images whose top region moved", *_cells(found.moved, percent=True)],
    ]
    return Table(["original against slim", "mean", "standard error", "images"], rows, "lrrr")


def degenerate(report: Report) -> str:
    """A sentence on maps that say nothing; empty where all do say something."""
    if report.saliency is None or report.saliency.maps is None:
        return ""
    found = report.saliency.maps.degenerate
    counts = [
        f"{as_count(count)} of the {model} model {what}"
        for model, maps in (("original", found.original), ("slim", found.slim))
        for count, what in ((maps.constant, "are constant"), (maps.zero, "have nothing above zero"))
        if count
    ]
    if not counts:
        return ""
    lost = as_percent(_maps(report).lost, 1)
    return f"{'; '.join(counts)}. On {lost} of the images only one model has an explanation."


def _maps(report: Report) -> MapDriftFigures:
    assert report.saliency is not None
    assert report.saliency.maps is not None
    return report.saliency.maps


def _cells(found: EstimateFigures, *, percent: bool = False) -> list[str]:
    def text(value: float | None) -> str:
        return MISSING if value is None else as_percent(value, 1) if percent else f"{value:.3f}"

    return [text(found.mean), text(found.standard_error), as_count(found.images)]
