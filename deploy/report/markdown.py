"""report.md: the report for the engineer who has to decide whether this model ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import jinja2

from compress.files import write_text

from .checks import latency_limit
from .markdown_drift import degenerate, map_drift
from .markdown_ranking import ranking
from .markdown_routed import dynamic, verification
from .schema import Interval, LatencyFigures, QuantilesMs, Report
from .tables import as_code, to_table
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

MARKDOWN_FILE: Final = "report.md"
SALIENCY_PICTURE: Final = "saliency.png"
CHANNELS_PICTURE: Final = "channels.png"
DRIFT_PICTURE: Final = "drift.png"
PICTURES: Final = (SALIENCY_PICTURE, DRIFT_PICTURE, CHANNELS_PICTURE)

_STEER: Final = {
    "rbf": "gates learned and steered by the explainer (ISP), so that the explanations stay where they were",
    "realx": "gates learned and steered by REAL-X, pixel by pixel, so that the explanations stay where they were",
    "varsal": "gates learned and steered by VarSal's mean maps, so that the explanations stay what they were",
    "none": "gates learned without the explainer",
    "magnitude": "ranked by weight magnitude; no gates were learned",
    "uniform": "the same share from every group; no gates were learned",
}


def _interval(speedup: Interval) -> str:
    return f"{as_times(speedup.median)} [{as_times(speedup.low)}, {as_times(speedup.high)}]"


def _signed_points(value: float) -> str:
    """``-0.51 points``; a change that rounds to zero has no sign."""
    text = as_points(value)
    return f"+{text}" if value > 0 and not text.startswith("0.00") else text.replace("-0.00", "0.00")


def _checks(report: Report) -> str:
    rows = []
    for check in report.verdict.checks:
        limit, value = check_texts(check)
        result = "passed" if check.passed else "**FAILED**"
        rows.append([check.name, limit, value, f"{result}: {check.reason}" if check.reason else result])
    return to_table(["check", "allowed", "measured", "result"], rows, "lrrl")


def _summary(report: Report) -> str:
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
            change = _signed_points(right_after - right_before)
            rows.append([name, as_percent(right_before), as_percent(right_after), change])
    for row in report.latency:
        before_ms, after_ms = as_ms(row.original_ms.median), as_ms(row.slim_ms.median)
        name = f"median latency, {latency_label(row)}"
        rows.append([name, before_ms, after_ms, f"speed-up {_interval(row.speedup)}"])
    table = to_table(["", "original", "slim", "change"], rows, "lrrl")
    slower = [latency_label(row) for row in report.latency if row.speedup.high < 1]
    if slower:
        table += (
            f"\n\n**Slower than the original** in {'; '.join(slower)}: MACs fell, time did not; try budget.align auto."
        )
    return table


def _budget(report: Report) -> str:
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
    if (latency := latency_limit(limits)) is not None:
        for row in report.latency:
            most = latency.of(row.original_ms.median)
            share = as_percent(row.slim_ms.median / most, 1)
            rows.append([f"median latency, {latency_label(row)}", as_ms(most), as_ms(row.slim_ms.median), share])
    return to_table(["", "at most", "slim", "of the limit used"], rows, "lrrr")


def _parity(report: Report) -> str:
    rows = [
        [
            as_code(row.artifact),
            row.runtime,
            row.precision,
            str(row.batch),
            as_error(row.max_abs),
            as_error(row.p99_abs),
            as_percent(row.top1_agreement),
            "passed" if row.passed else "**FAILED**",
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
    return to_table(header, rows, "lllrrrrl")


def _latency(report: Report) -> str:
    def line(row: LatencyFigures, model: str, ms: QuantilesMs, speedup: str) -> list[str]:
        threads = str(row.threads) if row.threads else "auto"
        times = [as_ms(ms.median), as_ms(ms.p90), as_ms(ms.p99)]
        return [row.runtime, row.precision, threads, str(row.batch), model, *times, speedup]

    rows = []
    for row in report.latency:
        rows.append(line(row, "original", row.original_ms, ""))
        rows.append(line(row, "slim", row.slim_ms, _interval(row.speedup)))
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
    return to_table(header, rows, "llrrlrrrr")


def _saliency(report: Report) -> str:
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
    return to_table(["original against slim", "mean"], rows, "lr")


def _selector(report: Report) -> str:
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
    return to_table(["seen through the mask", "KL to the full prediction, nats"], rows, "lr")


def _channels(report: Report) -> str:
    frozen = {group.name for group in report.exactness.frozen_groups}
    rows = [
        [
            as_code(row.group),
            str(row.total),
            str(row.kept),
            as_percent(row.kept / row.total, 0),
            "frozen" if row.group in frozen else "",
        ]
        for row in report.channels
    ]
    return to_table(["group", "channels", "kept", "share", ""], rows, "lrrrl")


def _frozen(report: Report) -> str:
    rows = [[as_code(group.name), group.reason] for group in report.exactness.frozen_groups]
    return to_table(["group", "reason"], rows, "ll")


def _stages(report: Report) -> str:
    rows = [[stage.name, as_duration(stage.seconds), "reused" if stage.reused else ""] for stage in report.stages]
    return to_table(["stage", "time", ""], rows, "lrl")


def _versions(report: Report) -> str:
    return to_table(["package", "version"], [[name, value] for name, value in report.versions.items()], "ll")


def _verdict(report: Report) -> str:
    """One sentence: passed or failed, and why."""
    verdict = report.verdict
    if not verdict.checks:
        return "**FAILED**: nothing was checked."
    if verdict.passed:
        count = len(verdict.checks)
        return f"**PASSED**: {f'all {count} checks hold' if count > 1 else 'its check holds'}."
    why = "; ".join(describe_check(check) for check in verdict.failed)
    return f"**FAILED**: {len(verdict.failed)} of {plural(len(verdict.checks), 'check')}. {why}."


def render_markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The text of report.md. ``pictures``: file names beside it to show (``PICTURES``)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    tables = (
        _checks,
        _summary,
        dynamic,
        verification,
        _budget,
        _parity,
        _latency,
        _saliency,
        map_drift,
        degenerate,
        _selector,
        ranking,
        _channels,
        _frozen,
        _stages,
    )
    environment.globals.update({f"{table.__name__.strip('_')}_table": table for table in (*tables, _versions)})
    for to_text in (as_count, as_duration, as_error, as_macs, as_percent):
        environment.filters[to_text.__name__] = to_text
    return environment.get_template("report.md.j2").render(
        report=report,
        verdict=_verdict(report),
        steer=_STEER.get(report.gates.steer, report.gates.steer) if report.gates else "",
        plural=plural,
        saliency_picture=SALIENCY_PICTURE if SALIENCY_PICTURE in pictures else None,
        drift_picture=DRIFT_PICTURE if DRIFT_PICTURE in pictures else None,
        channels_picture=CHANNELS_PICTURE if CHANNELS_PICTURE in pictures else None,
    )


def write_markdown(folder: Path, report: Report) -> Path:
    """Write report.md into ``folder``, showing the pictures that lie there; returns its path."""
    path = folder / MARKDOWN_FILE
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    write_text(path, render_markdown(report, pictures))
    return path
