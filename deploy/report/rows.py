"""Tables and sentences of a report on costs, accuracy, parity, latency, channels and checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from slimsight.compress.amounts import as_duration

from .schema import Interval, LatencyFigures, QuantilesMs, Report, Verdict
from .shares import wilson
from .table import Cell, Code, Number, Result, Table
from .units import (
    as_3_decimals,
    as_bytes,
    as_count,
    as_error,
    as_macs,
    as_ms,
    as_percent,
    as_percent_0,
    as_percent_1,
    as_points,
    as_times,
    check_texts,
    describe_check,
    latency_label,
    plural,
)

_STEER: Final = {
    "rbf": "gates learned and steered by the explainer (ISP), so that the explanations stay where they were",
    "realx": "gates learned and steered by REAL-X, pixel by pixel, so that the explanations stay where they were",
    "varsal": "gates learned and steered by VarSal's mean maps, so that the explanations stay what they were",
    "none": "gates learned without the explainer",
}
_RANKED: Final = {
    "magnitude": "ranked by weight magnitude",
    "uniform": "the same share from every group",
    "taylor": "ranked by first-order Taylor importance (Torch-Pruning)",
    "fpgm": "ranked by the distance to other filters (FPGM, Torch-Pruning)",
    "bn_scale": "ranked by the scales of batch normalisation (Torch-Pruning)",
    "lamp": "ranked by LAMP (Torch-Pruning)",
    "random": "drawn at random",
}


AGREES: Final = "agreement with the original"
NO_TEST_IMAGES: Final = "no test images"


def interval_text(speedup: Interval) -> str:
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
    rows: list[list[Cell]] = [
        [name, Number(before, as_text), Number(after, as_text), Number(after / before, _as_kept)]
        for name, before, after, as_text in costs
    ]
    accuracies = (
        ("validation accuracy", old.val_accuracy, new.val_accuracy),
        ("test accuracy", old.test_accuracy, new.test_accuracy),
    )
    for name, right_before, right_after in accuracies:
        if right_before is not None and right_after is not None:
            shares = (Number(right_before, as_percent), Number(right_after, as_percent))
            rows.append([name, *shares, Number(right_after - right_before, signed_points)])
        elif name == "test accuracy" and report.data is not None and report.data.without_test:
            rows.append([name, NO_TEST_IMAGES, NO_TEST_IMAGES, ""])
    if not report.labelled and (found := report.agreement) is not None:
        rows.append([AGREES, "", Number(found.top1, as_percent), ""])
        if found.test is not None:
            rows.append([f"{AGREES}, test", "", Number(found.test.top1, as_percent), ""])
    for row in report.latency:
        medians = (Number(row.original_ms.median, as_ms), Number(row.slim_ms.median, as_ms))
        rows.append([f"median latency, {latency_label(row)}", *medians, f"speed-up {interval_text(row.speedup)}"])
    return Table(["", "original", "slim", "change"], rows, "lrrl")


def _as_kept(value: float) -> str:
    return f"{as_percent_1(value)} kept"


def slower(report: Report) -> list[str]:
    """The rows in which the slim model is slower than the original, beyond doubt."""
    return [latency_label(row) for row in report.latency if row.speedup.high < 1]


def budget_use(report: Report) -> list[tuple[str, Number, Number, Number]]:
    """Each limit of the recipe: its name, the most allowed, the slim model's figure, and its share of the limit."""
    limits, slim = report.budget, report.slim
    figures: list[tuple[str, float | None, float, Callable[[float], str]]] = [
        ("MACs", limits.macs_max, slim.macs, as_macs),
        ("parameters", limits.params_max, slim.params, as_count),
        ("size of the weights", limits.size_max, slim.size_bytes, as_bytes),
    ]
    if (latency := limits.latency_max) is not None:
        for row in report.latency:
            most = latency.of(row.original_ms.median)
            figures.append((f"median latency, {latency_label(row)}", most, row.slim_ms.median, as_ms))
    return [
        (name, Number(most, as_text), Number(value, as_text), Number(value / most, as_percent_1))
        for name, most, value, as_text in figures
        if most is not None
    ]


def budget(report: Report) -> Table:
    """The recipe's limits, and how much of them is used."""
    return Table(["", "at most", "slim", "of the limit used"], budget_use(report), "lrrr")


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
            Number(row.top1_agreement, as_percent),
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

    def line(
        row: LatencyFigures, model: str, ms: QuantilesMs, speedup: Cell, precision: str | None = None
    ) -> list[Cell]:
        threads = str(row.threads) if row.threads else "auto"
        times = [Number(value, as_ms) for value in (ms.median, ms.p90, ms.p99)]
        return [row.runtime, precision or row.precision, threads, str(row.batch), model, *times, speedup]

    rows = []
    for row in report.latency:
        rows.append(line(row, "original", row.original_ms, ""))
        rows.append(line(row, "slim", row.slim_ms, interval_text(row.speedup)))
        if row.dynamic_ms is not None:
            ratio = row.original_ms.median / row.dynamic_ms.median
            rows.append(line(row, "dynamic", row.dynamic_ms, Number(ratio, as_times)))
        if row.int8_ms is not None and row.int8_speedup is not None:
            rows.append(line(row, "slim", row.int8_ms, interval_text(row.int8_speedup), "int8"))
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


def selector_kl(report: Report) -> list[tuple[str, Number]]:
    """KL of the prediction seen through the explainer's masks, first, and through those of each control."""
    assert report.saliency is not None
    selector = report.saliency.selector
    assert selector is not None
    figures = (
        ("where the explainer looks", selector.kl),
        ("the same, asked for the predicted label", selector.kl_predicted_label),
        ("same sizes, at the image centre", selector.kl_centred),
        ("same areas, at the image centre", selector.kl_centred_same_area),
        ("same sizes, anywhere", selector.kl_random),
        ("same areas, anywhere", selector.kl_random_same_area),
    )
    return [(name, Number(value, as_3_decimals)) for name, value in figures if value is not None]


def selector(report: Report) -> Table:
    """The explainer against masks that anyone could draw."""
    return Table(["seen through the mask", "KL to the full prediction, nats"], selector_kl(report), "lr")


def channels(report: Report) -> Table:
    """Channels of every group."""
    frozen = {group.name for group in report.exactness.frozen_groups}
    rows: list[list[Cell]] = [
        [
            Code(row.group),
            str(row.total),
            str(row.kept),
            Number(row.kept / row.total, as_percent_0),
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
    rows = [
        [stage.name, Number(stage.seconds, as_duration), "reused" if stage.reused else ""] for stage in report.stages
    ]
    return Table(["stage", "time", ""], rows, "lrl")


def versions(report: Report) -> Table:
    """Packages that were used."""
    return Table(["package", "version"], [[name, value] for name, value in report.versions.items()], "ll")


def steer(report: Report) -> str:
    """How channels were ranked, in words."""
    if report.gates is None:
        return ""
    if (ranked := ranked_by(report)) is not None:
        return f"{ranked}; no gates were learned"
    done = _STEER.get(report.gates.steer, report.gates.steer)
    asked = report.gates.steer_asked
    return done if asked is None else f"{done}, although {asked} was asked to steer them"


def ranked_by(report: Report) -> str | None:
    """How channels were ranked where no gates were learned; None where they were."""
    return _RANKED.get(report.gates.steer) if report.gates else None


def agreement(report: Report) -> str:
    """On how many validation images slim model and original predict the same class; "" where it was not measured."""
    found = report.agreement
    if found is None:
        return ""
    low, high = wilson(found.top1, found.images)
    text = (
        f"Slim model and original predict the same class on {as_percent(found.top1)} of "
        f"{plural(found.images, 'validation image')} (95 % interval: {as_percent_1(low)} to {as_percent_1(high)})"
    )
    if (test := found.test) is not None:
        interval = f"{as_percent_1(test.low)} to {as_percent_1(test.high)}"
        text += f", and on {as_percent(test.top1)} of {plural(test.images, 'test image')} ({interval})"
    if report.labelled:
        return f"{text}."
    by_chance = "" if found.chance is None else f" By chance it would be {as_percent(found.chance)}."
    return f"{text}.{by_chance} The images have no labels, so nothing is known of the accuracy of either model."


def verdict(report: Report) -> str:
    """Why it passed or failed, and what to change, in a few sentences."""
    count, failed = len(report.verdict.checks), report.verdict.failed
    untested = report.data is not None and report.data.without_test
    notes = " There are no test images: accuracies are those of validation images." if untested else ""
    if (left_open := unjudged(report.verdict)) is not None:
        notes += f" {left_open[0].upper()}{left_open[1:]}."
    notes += "".join(f" {note}" for note in report.verdict.notes or ())
    if not count:
        return f"nothing was checked.{notes}"
    if report.verdict.passed:
        return f"{f'all {count} checks hold' if count > 1 else 'its check holds'}.{notes}"
    sentence = f"{len(failed)} of {plural(count, 'check')}. {'; '.join(map(describe_check, failed))}."
    return " ".join([sentence, *(f"What to change: {remedy}." for remedy in remedies(report))]) + notes


def unjudged(verdict: Verdict) -> str | None:
    """What the verdict leaves open: that accuracy, or agreement, was not judged."""
    if verdict.agreement_judged is False:
        return "agreement with the original was measured, not judged (checks.agreement is null)"
    if verdict.accuracy_judged is False:
        return "accuracy was measured, not judged (checks.accuracy_drop is null)"
    return None


def remedies(report: Report) -> list[str]:
    """What to change so that the failed checks pass, each said once."""
    return list(dict.fromkeys(check.remedy for check in report.verdict.failed if check.remedy))
