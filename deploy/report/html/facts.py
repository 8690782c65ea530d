"""Tiles, tables and sentences of a run's HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .. import rows
from ..parts import GateHistoryFigures
from ..schema import Report
from ..shares import wilson
from ..table import Cell, Number, Table
from ..units import (
    as_3_decimals,
    as_4_digits,
    as_bytes,
    as_count,
    as_macs,
    as_ms,
    as_percent,
    as_percent_0,
    as_percent_1,
    as_times,
    latency_label,
)
from .source import RunPage

NOT_MEASURED: Final = "\N{EN DASH}"


@dataclass(frozen=True)
class HeadlineAccuracy:
    """The accuracy that a page shows first: test accuracy where it was measured, else validation accuracy.

    Without labels it is agreement with the original, which agrees with itself.

    ``images``: how many it is of, where that is known.
    """

    name: str
    original: float
    slim: float
    dynamic: float | None
    images: int | None

    @classmethod
    def of(cls, report: Report) -> HeadlineAccuracy:
        old, new, dynamic, data = report.original, report.slim, report.dynamic, report.data
        if old.val_accuracy is None or new.val_accuracy is None:
            assert report.agreement is not None, "a report without labels measures agreement"
            found = report.agreement.test or report.agreement
            return cls(rows.AGREES, 1.0, found.top1, None, found.images)
        if old.test_accuracy is not None and new.test_accuracy is not None:
            tested = None if dynamic is None else dynamic.test_accuracy
            count = None if data is None else data.test
            return cls("test accuracy", old.test_accuracy, new.test_accuracy, tested, count)
        validated = None if dynamic is None else dynamic.val_accuracy
        count = None if data is None else data.val
        return cls("validation accuracy", old.val_accuracy, new.val_accuracy, validated, count)


@dataclass(frozen=True)
class AccuracyPoint:
    """MACs and accuracy of a model; ``low`` and ``high`` bound the accuracy (itself where the count is not known)."""

    macs: float
    accuracy: float
    low: float
    high: float


def accuracy_points(report: Report) -> dict[str, AccuracyPoint]:
    """MACs and accuracy of the original, the slim and, where there is one, the dynamic model, by name."""
    shown, dynamic = HeadlineAccuracy.of(report), report.dynamic
    points: dict[str, tuple[float, float]] = {
        "original": (report.original.macs, shown.original),
        "slim": (report.slim.macs, shown.slim),
    }
    if dynamic is not None and shown.dynamic is not None:
        points["dynamic"] = (dynamic.macs_mean, shown.dynamic)
    return {
        model: AccuracyPoint(float(macs), share, *(wilson(share, shown.images) if shown.images else (share, share)))
        for model, (macs, share) in points.items()
    }


@dataclass(frozen=True)
class Tile:
    """A figure in large letters."""

    name: str
    value: str
    note: str


def tiles(report: Report) -> list[Tile]:
    """The figures at the top of the page."""
    old, new = report.original, report.slim
    shown = [
        Tile("MACs kept", as_percent_1(new.macs / old.macs), f"{as_macs(new.macs)} of {as_macs(old.macs)}"),
        Tile(
            "size of the weights",
            as_bytes(new.size_bytes, like=old.size_bytes),
            f"{as_bytes(old.size_bytes)} before",
        ),
    ]
    accuracy = HeadlineAccuracy.of(report)
    if not report.labelled:
        low, high = wilson(accuracy.slim, accuracy.images or 1)
        note = f"95 % interval {as_percent_1(low)} to {as_percent_1(high)}"
        shown.append(Tile(accuracy.name, as_percent(accuracy.slim), note))
        return shown + _speed_and_saliency(report)
    note = f"{as_percent(accuracy.original)} \N{RIGHTWARDS ARROW} {as_percent(accuracy.slim)}"
    shown.append(Tile(accuracy.name, rows.signed_points(accuracy.slim - accuracy.original), note))
    return shown + _speed_and_saliency(report)


def _speed_and_saliency(report: Report) -> list[Tile]:
    shown = []
    if report.latency:
        row = report.latency[0]
        bounds = f"{as_times(row.speedup.low)} to {as_times(row.speedup.high)}"
        shown.append(Tile("speed-up", as_times(row.speedup.median), f"{bounds}, {row.runtime}, batch {row.batch}"))
    if report.saliency is not None:
        moved = f"centre moved by {report.saliency.center_drift_px:.2f} px"
        shown.append(Tile("explanations overlap", as_percent_1(report.saliency.iou), moved))
    looks = report.attribution
    if looks is not None and looks.share is not None and looks.share.mean is not None:
        note = "of the way to where it looks in another image (Grad-CAM)"
        shown.append(Tile("what it looks at moved", as_percent_0(looks.share.mean), note))
    return shown


def models(report: Report) -> Table:
    """Original, slim and, where there is one, dynamic: costs, accuracies, latencies."""
    table = rows.summary(report)
    dynamic = report.dynamic
    if dynamic is None:
        return Table(["", "original", "slim", "slim against original"], table.rows, "lrrl")
    cells = {
        "MACs": f"{as_macs(dynamic.macs_mean)} on average",
        "validation accuracy": as_percent(dynamic.val_accuracy),
    }
    if dynamic.test_accuracy is not None:
        cells["test accuracy"] = as_percent(dynamic.test_accuracy)
    for row in report.latency:
        if row.dynamic_ms is not None:
            ratio = as_times(row.original_ms.median / row.dynamic_ms.median)
            cells[f"median latency, {latency_label(row)}"] = f"{as_ms(row.dynamic_ms.median)} ({ratio})"
    extended: list[Sequence[Cell]] = [
        [name, before, after, change, cells.get(str(name), NOT_MEASURED)] for name, before, after, change in table.rows
    ]
    return Table(["", "original", "slim", "slim against original", "dynamic"], extended, "lrrlr")


def gate_table(history: GateHistoryFigures, *, labelled: bool = True) -> Table:
    """Gate curves as numbers, a row per point."""
    loss = "cross entropy" if labelled else "KL from the original"
    head = ["up to step", "MACs", "target", loss, "R_res"]
    columns = [
        [Number(step, as_count) for step in history.step],
        *([Number(value, as_percent_1) for value in column] for column in (history.macs, history.target)),
        *([Number(value, as_4_digits) for value in column] for column in (history.ce, history.residual)),
    ]
    if history.steer is not None:
        head.append("distance of explanations")
        columns.append([Number(value, as_4_digits) for value in history.steer])
    return Table(head, list(zip(*columns, strict=True)), "r" * len(head))


def selector_words(report: Report) -> str:
    """A sentence on the controls that the explainer does not beat."""
    assert report.saliency is not None
    selector = report.saliency.selector
    assert selector is not None
    controls = {
        "masks of the same areas at the centre": selector.kl_centred_same_area,
        "masks of the same areas anywhere": selector.kl_random_same_area,
    }
    if selector.kl_random_same_area is None:  # an earlier version compared masks of other areas
        controls |= {
            "masks of the same sizes at the centre": selector.kl_centred,
            "masks anywhere": selector.kl_random,
        }
    lost = [name for name, kl in controls.items() if kl is not None and selector.kl >= kl]
    if lost:
        return f"This one does NOT beat {' and '.join(lost)}."
    if selector.gain_centred is None or selector.gain_centred_error is None:
        return "This one beats all of them."
    gain, error = as_3_decimals(selector.gain_centred), as_3_decimals(selector.gain_centred_error)
    return (
        f"At the same area this one beats masks at the centre by {gain} \N{PLUS-MINUS SIGN} {error} nats (paired by "
        "image), and masks anywhere."
    )


def commands(page: RunPage) -> str:
    """Shell commands that repeat this run, and compare both."""
    here = shlex.quote(page.name)
    again = shlex.quote(f"{page.name}-again")
    return "\n".join(
        [
            f"slimsight run {here}/recipe.yaml --out {again}",
            f"slimsight report {here} {again} --out comparison.html",
        ]
    )


def pins(report: Report) -> str:
    """The pip command that installs this run's packages; empty where the report has none."""
    packages = [f"{name}=={value}" for name, value in report.versions.items() if name not in ("python", "slimsight")]
    return f"pip install {' '.join(shlex.quote(each) for each in packages)}" if packages else ""
