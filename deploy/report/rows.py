"""Tables of the report as data, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from slimsight.compress.files.untrusted import escape_controls

from .schema import Interval, LatencyFigures, QuantilesMs, Report
from .units import (
    as_bytes,
    as_count,
    as_duration,
    as_error,
    as_macs,
    as_ms,
    as_percent,
    as_points,
    as_times,
    check_texts,
    describe_check,
    latency_label,
    plural,
)


class Code(str):
    """A name out of a program: shown in its type."""


@dataclass(frozen=True)
class Result:
    """Whether a check passed, and why not."""

    passed: bool
    reason: str | None = None


Cell = str | Result


@dataclass(frozen=True)
class Table:
    """Heads of columns, rows of cells, and one of ``lr`` per column: texts stand left, numbers right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str


def to_markdown(table: Table) -> str:
    """The table as Markdown; failures are in bold."""
    return to_table(table.head, [[_in_markdown(cell) for cell in row] for row in table.rows], table.align)


def _in_markdown(cell: Cell) -> str:
    if isinstance(cell, Code):
        return code(cell)
    if isinstance(cell, str):
        return plain(cell)
    result = "passed" if cell.passed else "**FAILED**"
    return f"{result}: {plain(cell.reason)}" if cell.reason else result


def plain(text: str) -> str:
    """``text`` of anyone's as Markdown shows it: no link, no picture, no HTML, on one line."""
    return re.sub(r"([<\[`])", r"\\\1", escape_controls(" ".join(text.split())))


def code(text: str) -> str:
    """``text`` of anyone's in the type of programs."""
    return f"`{escape_controls(' '.join(text.split())).replace('`', chr(39))}`"


def to_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A Markdown table whose columns line up as plain text too; ``align`` holds one of ``lr`` per column."""
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (list(header), *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(w) if a == "r" else cell.ljust(w) for cell, w, a in zip(row, widths, align, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if a == "r" else "-") for w, a in zip(widths, align, strict=True)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


_STEER: Final = {
    "rbf": "gates learned and steered by the explainer (ISP), so that the explanations stay where they were",
    "realx": "gates learned and steered by REAL-X, pixel by pixel, so that the explanations stay where they were",
    "varsal": "gates learned and steered by VarSal's mean maps, so that the explanations stay what they were",
    "none": "gates learned without the explainer",
    "magnitude": "ranked by weight magnitude; no gates were learned",
    "uniform": "the same share from every group; no gates were learned",
}


def interval(speedup: Interval) -> str:
    """``1.56x [1.51x, 1.61x]``."""
    return f"{as_times(speedup.median)} [{as_times(speedup.low)}, {as_times(speedup.high)}]"


def signed_points(value: float) -> str:
    """``-0.51 points``; a change that rounds to zero has no sign."""
    text = as_points(value)
    return f"+{text}" if value > 0 and not text.startswith("0.00") else text.replace("-0.00", "0.00")


def checks(report: Report) -> Table:
    """Every check of the verdict."""
    rows: list[list[Cell]] = []
    for check in report.verdict.checks:
        limit, value = check_texts(check)
        rows.append([check.name, limit, value, Result(check.passed, check.reason)])
    return Table(["check", "allowed", "measured", "result"], rows, "lrrl")


def summary(report: Report) -> Table:
    """Costs, accuracies and latencies of original and slim model."""
    old, new = report.original, report.slim
    costs: list[tuple[str, int, int, Callable[[float], str]]] = [
        ("MACs", old.macs, new.macs, as_macs),
        ("parameters", old.params, new.params, as_count),
        ("size of the weights", old.size_bytes, new.size_bytes, partial(as_bytes, like=old.size_bytes)),
    ]
    rows = [
        [name, as_text(before), as_text(after), f"{as_percent(after / before, 1)} kept"]
        for name, before, after, as_text in costs
    ]
    accuracies = (
        ("validation accuracy", old.val_accuracy, new.val_accuracy),
        ("test accuracy", old.test_accuracy, new.test_accuracy),
    )
    for name, right_before, right_after in accuracies:
        if right_before is not None and right_after is not None:
            change = signed_points(right_after - right_before)
            rows.append([name, as_percent(right_before), as_percent(right_after), change])
    for row in report.latency:
        before_ms, after_ms = as_ms(row.original_ms.median), as_ms(row.slim_ms.median)
        name = f"median latency, {latency_label(row)}"
        rows.append([name, before_ms, after_ms, f"speed-up {interval(row.speedup)}"])
    return Table(["", "original", "slim", "change"], rows, "lrrl")


def slower(report: Report) -> list[str]:
    """The rows in which the slim model is slower than the original, beyond doubt."""
    return [latency_label(row) for row in report.latency if row.speedup.high < 1]


def budget(report: Report) -> Table:
    """The recipe's limits, and how much of them is used."""
    limits, slim = report.budget, report.slim
    rows = []
    if limits.macs_max is not None:
        used = as_percent(slim.macs / limits.macs_max, 1)
        rows.append(["MACs", as_macs(limits.macs_max), as_macs(slim.macs), used])
    if limits.params_max is not None:
        share = as_percent(slim.params / limits.params_max, 1)
        rows.append(["parameters", as_count(limits.params_max), as_count(slim.params), share])
    if limits.size_max is not None:
        share = as_percent(slim.size_bytes / limits.size_max, 1)
        rows.append(["size of the weights", as_bytes(limits.size_max), as_bytes(slim.size_bytes), share])
    if (latency := limits.latency_max) is not None:
        for row in report.latency:
            most = latency.of(row.original_ms.median)
            share = as_percent(row.slim_ms.median / most, 1)
            rows.append([f"median latency, {latency_label(row)}", as_ms(most), as_ms(row.slim_ms.median), share])
    return Table(["", "at most", "slim", "of the limit used"], rows, "lrrr")


def parity(report: Report) -> Table:
    """Exported files against PyTorch."""
    rows: list[list[Cell]] = [
        [
            Code(row.artifact),
            row.runtime,
            row.precision,
            str(row.batch),
            as_error(row.max_abs),
            as_error(row.p99_abs),
            as_percent(row.top1_agreement),
            Result(row.passed),
        ]
        for row in report.parity
    ]
    header = [
        "artefact",
        "runtime",
        "precision",
        "batch",
        "max difference",
        "99 % below",
        "same top-1",
        "result",
    ]
    return Table(header, rows, "lllrrrrl")


def latency(report: Report) -> Table:
    """Quantiles of every model in every row."""

    def line(row: LatencyFigures, model: str, ms: QuantilesMs, speedup: str) -> list[str]:
        threads = str(row.threads) if row.threads else "auto"
        times = [as_ms(ms.median), as_ms(ms.p90), as_ms(ms.p99)]
        return [row.runtime, row.precision, threads, str(row.batch), model, *times, speedup]

    rows = []
    for row in report.latency:
        rows.append(line(row, "original", row.original_ms, ""))
        rows.append(line(row, "slim", row.slim_ms, interval(row.speedup)))
        if row.dynamic_ms is not None:
            ratio = row.original_ms.median / row.dynamic_ms.median
            rows.append(line(row, "dynamic", row.dynamic_ms, as_times(ratio)))
    header = [
        "runtime",
        "precision",
        "threads",
        "batch",
        "model",
        "median",
        "p90",
        "p99",
        "speed-up [95 % interval]",
    ]
    return Table(header, rows, "llrrlrrrr")


def saliency(report: Report) -> Table:
    """How far the explanation moved."""
    found = report.saliency
    assert found is not None
    rows = [["centre of the explanation moved by", f"{found.center_drift_px:.2f} px"]]
    if found.sigma_drift_px is not None:
        rows.append(["its radius (sigma) changed by", f"{found.sigma_drift_px:.2f} px"])
    rows.append(["overlap of the two maps (soft IoU)", as_percent(found.iou, 1)])
    if found.area is not None:
        rows.append(["image area explained, slim", as_percent(found.area, 1)])
    if found.selector is not None:
        rows.append(["image area explained, original", as_percent(found.selector.mean_area, 1)])
    return Table(["original against slim", "mean"], rows, "lr")


def selector(report: Report) -> Table:
    """The explainer against masks that anyone could draw."""
    assert report.saliency is not None
    found = report.saliency.selector
    assert found is not None
    rows = [
        ["where the explainer looks", f"{found.kl:.3f}"],
        ["same sizes, at the image centre", f"{found.kl_centred:.3f}"],
        ["same sizes, anywhere", f"{found.kl_random:.3f}"],
    ]
    if found.kl_centred_same_area is not None:
        rows.insert(2, ["same areas, at the image centre", f"{found.kl_centred_same_area:.3f}"])
    if found.kl_predicted_label is not None:
        rows.insert(1, ["the same, asked for the predicted label", f"{found.kl_predicted_label:.3f}"])
    return Table(["seen through the mask", "KL to the full prediction, nats"], rows, "lr")


def channels(report: Report) -> Table:
    """Channels of every group."""
    frozen = {group.name for group in report.exactness.frozen_groups}
    rows = [
        [
            Code(row.group),
            str(row.total),
            str(row.kept),
            as_percent(row.kept / row.total, 0),
            "frozen" if row.group in frozen else "",
        ]
        for row in report.channels
    ]
    return Table(["group", "channels", "kept", "share", ""], rows, "lrrrl")


def frozen(report: Report) -> Table:
    """Groups that keep all channels, and why."""
    rows = [[Code(group.name), group.reason] for group in report.exactness.frozen_groups]
    return Table(["group", "reason"], rows, "ll")


def stages(report: Report) -> Table:
    """How long each stage took."""
    rows = [[stage.name, as_duration(stage.seconds), "reused" if stage.reused else ""] for stage in report.stages]
    return Table(["stage", "time", ""], rows, "lrl")


def versions(report: Report) -> Table:
    """Packages that were used."""
    return Table(["package", "version"], [[name, value] for name, value in report.versions.items()], "ll")


def steer(report: Report) -> str:
    """How channels were ranked, in words."""
    return _STEER.get(report.gates.steer, report.gates.steer) if report.gates else ""


def verdict(report: Report) -> str:
    """Why it passed or failed, in a sentence."""
    found = report.verdict
    if not found.checks:
        return "nothing was checked."
    if found.passed:
        return f"all {len(found.checks)} checks hold." if len(found.checks) > 1 else "its check holds."
    why = "; ".join(describe_check(check) for check in found.failed)
    return f"{len(found.failed)} of {plural(len(found.checks), 'check')}. {why}."
