"""Tables and sentences of a report on drift of saliency maps, VarSal's ranking and the dynamic variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .parts import EstimateFigures
from .parts_explained import AttributionFigures, MapDriftFigures
from .schema import Report
from .table import Cell, Code, Number, Table
from .units import (
    MISSING,
    as_3_decimals,
    as_count,
    as_macs,
    as_ms,
    as_percent,
    as_percent_0,
    as_percent_1,
    as_px,
    latency_label,
    plural,
)


def saliency(report: Report) -> Table:
    """How far the explanation moved, beside what explanations that know nothing of their image have."""
    saliency = report.saliency
    assert saliency is not None
    area = None if saliency.selector is None else saliency.selector.mean_area
    chance = saliency.chance
    levels = () if chance is None else (chance.constant, chance.other)
    figures: tuple[tuple[str, Sequence[float | None], Callable[[float], str]], ...] = (
        (
            "centre of the explanation moved by",
            [saliency.center_drift_px, *(level.center_drift_px for level in levels)],
            as_px,
        ),
        (
            "its radius (sigma) changed by",
            [saliency.sigma_drift_px, *(level.sigma_drift_px for level in levels)],
            as_px,
        ),
        ("overlap of the two maps (soft IoU)", [saliency.iou, *(level.iou for level in levels)], as_percent_1),
        (
            "way gone from no change (0 %) to the mean explanation (100 %)",
            [None if chance is None else chance.share.mean],
            as_percent_1,
        ),
        ("image area explained, slim", [saliency.area], as_percent_1),
        ("image area explained, original", [area], as_percent_1),
    )
    width = 1 + len(levels)
    rows: list[list[Cell]] = [
        [name, *(MISSING if v is None else Number(v, as_text) for v in values), *[""] * (width - len(values))]
        for name, values, as_text in figures
        if values[0] is not None
    ]
    header = [
        "original against slim",
        "mean",
        *["chance: the mean map", "chance: another image"][: len(levels)],
    ]
    return Table(header, rows, "lr" + "r" * len(levels))


def map_drift(report: Report) -> Table:
    """Figures that compare between explainers, each with its standard error."""
    maps = _maps(report)
    figures: tuple[tuple[str, EstimateFigures, Callable[[float], str]], ...] = (
        ("centre moved by, px", maps.center_px, as_3_decimals),
        ("overlap of the regions with half of the mass", maps.region_iou, as_percent_1),
        ("rank correlation of pixels", maps.spearman, as_3_decimals),
        ("divergence of the maps, nats", maps.kl, as_3_decimals),
        ("images whose top region moved", maps.moved, as_percent_1),
    )
    rows: list[list[Cell]] = [
        [
            name,
            *(MISSING if v is None else Number(v, as_text) for v in (estimate.mean, estimate.standard_error)),
            Number(estimate.images, as_count),
        ]
        for name, estimate, as_text in figures
    ]
    return Table(["original against slim", "mean", "standard error", "images"], rows, "lrrr")


_METHODS: Final = {"grad_cam": "Grad-CAM"}


def attribution(report: Report) -> Table:
    """Overlap of the two models' maps by an explainer that steers nothing, beside its chance level."""
    found = _attributed(report)
    assert found is not None
    figures: tuple[tuple[str, EstimateFigures | None, Callable[[float], str]], ...] = (
        ("overlap of the regions with half of the mass, original and slim", found.region_iou, as_percent_1),
        ("the same between different images: chance", found.chance, as_percent_1),
        ("way gone from no change (0 %) to chance (100 %)", found.share, as_percent_1),
        ("rank correlation of pixels", found.spearman, as_3_decimals),
        ("images whose top region moved", found.moved, as_percent_1),
    )
    rows: list[list[Cell]] = [
        [name, *(MISSING if v is None else Number(v, as_text) for v in (value.mean, value.standard_error))]
        for name, value, as_text in figures
        if value is not None
    ]
    return Table([f"by {_METHODS.get(found.explainer, found.explainer)}", "mean", "standard error"], rows, "lrr")


def attribution_text(report: Report) -> str:
    """How the table of ``attribution`` was made, or why there is none; empty where an earlier version made the run."""
    found = report.attribution
    if found is None:
        return ""
    method = _METHODS.get(found.explainer, found.explainer)
    if found.reason is not None:
        return f"What the models look at was not compared by {method}: {found.reason}."
    return (
        f"{method} steers nothing here; its maps of {plural(found.images, 'validation image')} are for the class that "
        "the original predicts."
    )


def _attributed(report: Report) -> AttributionFigures | None:
    return None if report.attribution is None or report.attribution.reason is not None else report.attribution


def degenerate(report: Report) -> str:
    """A sentence on maps that say nothing; empty where all do say something."""
    if report.saliency is None or report.saliency.maps is None:
        return ""
    empty = report.saliency.maps.degenerate
    counts = [
        f"{as_count(count)} of the {model} model {what}"
        for model, maps in (("original", empty.original), ("slim", empty.slim))
        for count, what in ((maps.constant, "are constant"), (maps.zero, "have nothing above zero"))
        if count
    ]
    if not counts:
        return ""
    lost = as_percent_1(_maps(report).lost)
    return f"{'; '.join(counts)}. On {lost} of the images only one model has an explanation."


def _maps(report: Report) -> MapDriftFigures:
    assert report.saliency is not None
    assert report.saliency.maps is not None
    return report.saliency.maps


def ranking(report: Report) -> Table:
    """KL by share of the pixels removed and by what ranked them."""
    assert report.saliency is not None
    kl = report.saliency.ranking
    assert kl is not None
    rows: list[tuple[Cell, ...]] = [
        (name, *(Number(value, as_3_decimals) for value in values))
        for name, values in (
            ("the explainer", kl.kl),
            ("distance from the image centre", kl.kl_centre),
            ("another image's map", kl.kl_other),
            ("chance", kl.kl_random),
        )
    ]
    shares = [as_percent_0(share) for share in kl.removed]
    return Table(["pixels ranked by", *(f"without {share}" for share in shares)], rows, "l" + "r" * len(shares))


def dynamic(report: Report) -> Table:
    """Original, slim and dynamic side by side; the dynamic one is timed in its routed form."""
    old, new, variant = report.original, report.slim, report.dynamic
    assert variant is not None
    macs = [Number(value, as_macs) for value in (old.macs, new.macs, variant.macs_mean)]
    rows: list[list[Cell]] = [["MACs per image, mean", *macs]]
    accuracies = (
        ("validation accuracy", old.val_accuracy, new.val_accuracy, variant.val_accuracy),
        ("test accuracy", old.test_accuracy, new.test_accuracy, variant.test_accuracy),
    )
    for name, *values in accuracies:
        rows.append([name, *("" if value is None else Number(value, as_percent) for value in values)])
    for row in report.latency:
        if row.dynamic_ms is not None:
            times = (row.original_ms, row.slim_ms, row.dynamic_ms)
            rows.append([f"median latency, {latency_label(row)}", *(Number(ms.median, as_ms) for ms in times)])
    return Table(["", "original", "slim", "dynamic"], rows, "lrrr")


def verification(report: Report) -> Table:
    """Bits, channels and accepted choices of each route."""
    assert report.dynamic is not None
    rows: list[list[Cell]] = [
        [
            Code(route.route),
            f"{route.bits_per_pixel:.3f}",
            f"{route.bits_per_channel:.2f}",
            f"{route.channels:.1f}",
            f"{route.open_channels:.1f}",
            Number(route.covered, as_percent_1),
            Number(route.accepted, as_percent_1),
        ]
        for route in report.dynamic.verification.routes
    ]
    header = ["route", "bits per pixel", "per channel", "channels with 90 %", "open", "of those open", "accepted"]
    return Table(header, rows, "lrrrrrr")
