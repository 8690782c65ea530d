"""What a run's page says in tables and words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .. import rows
from ..parts import GateHistoryFigures
from ..schema import LatencyFigures, ModelFigures, Report
from ..table import Cell, Table
from ..units import as_bytes, as_macs, as_ms, as_percent, as_times, latency_label
from .source import RunPage

NOT_TAKEN: Final = "\N{EN DASH}"
_OF_NORMAL: Final = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Tile:
    """A figure in large letters."""

    name: str
    value: str
    note: str


def tiles(report: Report) -> list[Tile]:
    """What a reader wants to know first."""
    old, new = report.original, report.slim
    found = [
        Tile("MACs kept", as_percent(new.macs / old.macs, 1), f"{as_macs(new.macs)} of {as_macs(old.macs)}"),
        Tile(
            "size of the weights",
            as_bytes(new.size_bytes, like=old.size_bytes),
            f"{as_bytes(old.size_bytes)} before",
        ),
    ]
    name, before, after = _accuracies(old, new)
    change = rows.signed_points(after - before)
    found.append(Tile(name, change, f"{as_percent(before)} \N{RIGHTWARDS ARROW} {as_percent(after)}"))
    if report.latency:
        row = report.latency[0]
        found.append(
            Tile("speed-up", as_times(row.speedup.median), f"{_bounds(row)}, {row.runtime}, batch {row.batch}")
        )
    if report.saliency is not None:
        moved = f"centre moved by {report.saliency.center_drift_px:.2f} px"
        found.append(Tile("explanations overlap", as_percent(report.saliency.iou, 1), moved))
    return found


def _accuracies(old: ModelFigures, new: ModelFigures) -> tuple[str, float, float]:
    if old.test_accuracy is not None and new.test_accuracy is not None:
        return "test accuracy", old.test_accuracy, new.test_accuracy
    return "validation accuracy", old.val_accuracy, new.val_accuracy


def _bounds(row: LatencyFigures) -> str:
    return f"{as_times(row.speedup.low)} to {as_times(row.speedup.high)}"


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
    found: list[Sequence[Cell]] = [
        [name, before, after, change, cells.get(str(name), NOT_TAKEN)] for name, before, after, change in table.rows
    ]
    return Table(["", "original", "slim", "slim against original", "dynamic"], found, "lrrlr")


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % score interval of a share of ``count`` images (Wilson 1927)."""
    z = _OF_NORMAL**2 / count
    centre = (share + z / 2) / (1 + z)
    half = _OF_NORMAL / (1 + z) * (share * (1 - share) / count + z / (4 * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def images_judged(report: Report) -> tuple[str, int | None]:
    """Whose accuracy is drawn, and of how many images it is."""
    tested = report.original.test_accuracy is not None and report.slim.test_accuracy is not None
    if tested:
        return "test accuracy", report.data.test if report.data else None
    return "validation accuracy", report.data.val if report.data else None


def judged(report: Report) -> dict[str, tuple[float, float, float, float]]:
    """By model: MACs, accuracy and the ends of its interval (the accuracy itself where the count is not known)."""
    name, before, after = _accuracies(report.original, report.slim)
    _, count = images_judged(report)
    pairs: dict[str, tuple[float, float]] = {
        "original": (report.original.macs, before),
        "slim": (report.slim.macs, after),
    }
    if (dynamic := report.dynamic) is not None:
        accuracy = dynamic.test_accuracy if name == "test accuracy" else dynamic.val_accuracy
        if accuracy is not None:
            pairs["dynamic"] = (dynamic.macs_mean, accuracy)
    return {
        model: (float(macs), right, *(wilson(right, count) if count else (right, right)))
        for model, (macs, right) in pairs.items()
    }


def gate_table(history: GateHistoryFigures) -> Table:
    """The same, step by step."""
    head = ["up to step", "MACs", "target", "cross entropy", "R_res"]
    columns = [
        [f"{step:,}" for step in history.step],
        *([as_percent(value, 1) for value in column] for column in (history.macs, history.target)),
        *([f"{value:.4g}" for value in column] for column in (history.ce, history.residual)),
    ]
    if history.steer is not None:
        head.append("distance of explanations")
        columns.append([f"{value:.4g}" for value in history.steer])
    return Table(head, list(zip(*columns, strict=True)), "r" * len(head))


def selector_words(report: Report) -> str:
    """Which of the controls the explainer beats."""
    assert report.saliency is not None
    found = report.saliency.selector
    assert found is not None
    controls = {"masks of the same sizes at the centre": found.kl_centred, "masks anywhere": found.kl_random}
    if found.kl_centred_same_area is not None:
        controls["masks of the same areas at the centre"] = found.kl_centred_same_area
    lost = [name for name, kl in controls.items() if found.kl >= kl]
    return f"This one does NOT beat {' and '.join(lost)}." if lost else "This one beats all of them."


def commands(page: RunPage) -> str:
    """What to type to get this run again, and to hold both against each other."""
    here = shlex.quote(page.name)
    again = shlex.quote(f"{page.name}-again")
    return "\n".join(
        [
            f"slimsight run {here}/recipe.yaml --out {again}",
            f"slimsight report {here} {again} --out comparison.html",
        ]
    )


def pins(report: Report) -> str:
    """The packages of this run, as pip takes them."""
    found = [f"{name}=={value}" for name, value in report.versions.items() if name not in ("python", "slimsight")]
    return f"pip install {' '.join(shlex.quote(each) for each in found)}" if found else ""
