"""Tables of the report on drift of saliency maps."""

from __future__ import annotations

from .parts import EstimateFigures, MapDriftFigures
from .rows import Code, Table
from .schema import Report
from .units import MISSING, as_count, as_macs, as_ms, as_percent, latency_label


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


def ranking(report: Report) -> Table:
    """KL by share of the pixels removed and by what ranked them."""
    assert report.saliency is not None
    found = report.saliency.ranking
    assert found is not None
    rows = [
        [name, *(f"{value:.3f}" for value in values)]
        for name, values in (
            ("the explainer", found.kl),
            ("distance from the image centre", found.kl_centre),
            ("another image's map", found.kl_other),
            ("chance", found.kl_random),
        )
    ]
    shares = [as_percent(share, 0) for share in found.removed]
    return Table(["pixels ranked by", *(f"without {share}" for share in shares)], rows, "l" + "r" * len(shares))


def dynamic(report: Report) -> Table:
    """Original, slim and dynamic side by side; the dynamic one is timed in its routed form."""
    found = report.dynamic
    assert found is not None
    old, new = report.original, report.slim
    rows = [["MACs per image, mean", as_macs(old.macs), as_macs(new.macs), as_macs(found.macs_mean)]]
    accuracies = (
        ("validation accuracy", old.val_accuracy, new.val_accuracy, found.val_accuracy),
        ("test accuracy", old.test_accuracy, new.test_accuracy, found.test_accuracy),
    )
    for name, *values in accuracies:
        rows.append([name, *("" if value is None else as_percent(value) for value in values)])
    for row in report.latency:
        if row.dynamic_ms is not None:
            times = (row.original_ms, row.slim_ms, row.dynamic_ms)
            rows.append([f"median latency, {latency_label(row)}", *(as_ms(ms.median) for ms in times)])
    return Table(["", "original", "slim", "dynamic"], rows, "lrrr")


def verification(report: Report) -> Table:
    """Bits, channels and accepted choices of each route."""
    assert report.dynamic is not None
    rows = [
        [
            Code(route.route),
            f"{route.bits_per_pixel:.3f}",
            f"{route.bits_per_channel:.2f}",
            f"{route.channels:.1f}",
            f"{route.open_channels:.1f}",
            as_percent(route.covered, 1),
            as_percent(route.accepted, 1),
        ]
        for route in report.dynamic.verification.routes
    ]
    header = ["route", "bits per pixel", "per channel", "channels with 90 %", "open", "of those open", "accepted"]
    return Table(header, rows, "lrrrrrr")
