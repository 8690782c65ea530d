"""Charts of a run's HTML page, by section."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from markupsafe import Markup

from slimsight.compress.amounts import as_duration

from .. import rows
from ..schema import LatencyFigures, QuantilesMs, Report
from ..units import as_db, as_error, as_macs_tick, as_ms, as_percent_1, latency_label
from .charts import Bar, Point, Series, Span, bars, gate_charts, in_columns, lines, scatter, spans
from .facts import HeadlineAccuracy, accuracy_points

TitledChart = tuple[str, Markup]
"""A chart and its caption."""


def tradeoff(report: Report) -> list[TitledChart]:
    """Accuracy against MACs, and against latency in each row that was timed."""
    y_name, accuracies = HeadlineAccuracy.of(report).name, accuracy_points(report)

    def chart(key: str, x: str, costs: Mapping[str, float], x_name: str, x_text: Callable[[float], str]) -> TitledChart:
        title = f"{y_name.capitalize()} against {x}"
        points = [
            Point(model, cost, at.accuracy, model, at.low, at.high)
            for model, cost in costs.items()
            if (at := accuracies.get(model)) is not None
        ]
        drawn = scatter(key, title, points, x_name=x_name, y_name=y_name, x_text=x_text, y_text=as_percent_1)
        return title, drawn

    macs = {model: at.macs for model, at in accuracies.items()}
    charts = [chart("tradeoff-macs", "MACs", macs, "MACs per image", as_macs_tick)]
    for number, row in enumerate(report.latency):
        medians = {model: ms.median for model, ms in _quantiles(row).items()}
        key, x = f"tradeoff-latency-{number}", f"latency, {latency_label(row)}"
        charts.append(chart(key, x, medians, "median time of a call", _ms_tick))
    return charts


def _quantiles(row: LatencyFigures) -> dict[str, QuantilesMs]:
    """By model, of those that were timed."""
    times = {"original": row.original_ms, "slim": row.slim_ms, "dynamic": row.dynamic_ms}
    return {model: ms for model, ms in times.items() if ms is not None}


def _ms_tick(value: float) -> str:
    return f"{value:.3g} ms"


def budget(report: Report) -> Markup:
    """How much of every limit is used."""
    used = [Bar(name, share.value, f"{share} of {most}") for name, most, _, share in rows.budget_use(report)]
    return bars("budget-used", "How much of the budget is used", used) if used else Markup("")


def channels(report: Report) -> list[Markup]:
    """The share of channels that every group keeps."""
    frozen = {group.name for group in report.exactness.frozen_groups}
    groups = [
        Bar(
            row.group,
            row.kept / row.total,
            f"{row.kept:,} of {row.total:,}" + (", frozen" if row.group in frozen else ""),
            "frozen" if row.group in frozen else "slim",
        )
        for row in report.channels
    ]
    return in_columns("channels", "Channels kept", groups)


def int8_sensitivity(report: Report) -> list[TitledChart]:
    """The noise that each layer alone makes in INT8, relative to the logits, and which layers stay in FP32."""
    charts: list[TitledChart] = []
    for number, file in enumerate(report.int8.files if report.int8 is not None else ()):
        control = file.accuracy_control
        if control is None or not control.sensitivity:
            continue
        noise = [0.0 if row.sqnr_db is None else 10 ** (-row.sqnr_db / 20) for row in control.sensitivity]
        largest = max(*noise, 1e-9)
        shown = [
            Bar(
                row.layer,
                amplitude / largest,
                ("no noise" if row.sqnr_db is None else as_db(row.sqnr_db)) + (", in FP32" if kept else ""),
                "frozen" if kept else "slim",
            )
            for row, amplitude in zip(control.sensitivity, noise, strict=True)
            for kept in (row.layer in control.layers_kept,)
        ]
        title = f"{file.artifact}: noise of the logits where one layer alone is in INT8 (SQNR); grey: it stays in FP32"
        charts += [(title, chart) for chart in in_columns(f"int8-noise-{number}", "Noise of each layer", shown)]
    return charts


def gates(report: Report) -> list[TitledChart]:
    """Gate curves; empty where no gates were learned, or no history was kept."""
    history = report.gates.history if report.gates else None
    if history is None:
        return []
    return gate_charts([("gates", "slim", history)], single=True, labelled=report.labelled)


def selector(report: Report) -> Markup:
    """What is lost when only the explained area is seen, against controls."""
    divergences = rows.selector_kl(report)
    largest = max(*(kl.value for _, kl in divergences), 1e-9)
    shown = [
        Bar(name, kl.value / largest, f"{kl} nats", "slim" if number == 0 else "original")
        for number, (name, kl) in enumerate(divergences)
    ]
    return bars("selector-kl", "KL to the full prediction when only the explained area is seen", shown)


def parity(report: Report) -> Markup:
    """Median, 99 % and largest difference of every comparison."""
    rows_shown = []
    for row in report.parity:
        label = f"{row.runtime} {row.precision}" + (", equal" if row.max_abs == 0 else "")
        # A logarithmic axis has no 0, and None was not a finite number.
        marks = [value for value in (row.median_abs, row.p99_abs, row.max_abs) if value]
        name = f"{row.artifact}, batch {row.batch}"
        rows_shown.append(Span(name, label, marks, "slim" if row.passed else "bad"))
    if not any(span.marks for span in rows_shown):
        return Markup("")
    title = "Differences of logits from PyTorch's"
    return spans("parity-quantiles", title, rows_shown, x_name="difference of logits", x_text=as_error, log=True)


def latency(report: Report) -> list[TitledChart]:
    """The distribution of every row that kept one, else its quantiles."""
    return [
        (title, _latency_chart(f"latency-{number}", title, row))
        for number, row in enumerate(report.latency)
        for title in (f"Time of a call, {latency_label(row)}",)
    ]


def _latency_chart(name: str, title: str, row: LatencyFigures) -> Markup:
    times, kept = _quantiles(row), row.percentiles_ms
    if kept is None:
        quantiles = [
            Span(model, f"median {as_ms(ms.median)}, p99 {as_ms(ms.p99)}", (ms.median, ms.p90, ms.p99), model)
            for model, ms in times.items()
        ]
        return spans(name, title, quantiles, x_name="time of a call", x_text=_ms_tick)
    percentiles = {"original": kept.original, "slim": kept.slim, "dynamic": kept.dynamic}
    series = [
        Series(model, model, ms, [percent / 100 for percent in kept.percent])
        for model, ms in percentiles.items()
        if ms is not None
    ]
    least = min(s.xs[0] for s in series)
    # The axis leaves out the slowest calls: on a busy machine single ones take ten times as long.
    most = min(max(ms.p99 for ms in times.values()), 2 * max(ms.median for ms in times.values()))
    summary = "; ".join(
        f"{model}: median {as_ms(ms.median)}, p90 {as_ms(ms.p90)}, p99 {as_ms(ms.p99)}" for model, ms in times.items()
    )
    return lines(
        name,
        title,
        f"Share of the calls that took at most so long. {summary}.",
        series,
        x_name="ms",
        y_name="calls that took at most so long",
        x_text=lambda value: f"{value:.3g}",
        y_text=lambda value: f"{100 * value:.0f} %",
        x_range=(0.95 * least, 1.02 * most),
        y_range=(0.0, 1.0),
    )


def stages(report: Report) -> list[Markup]:
    """How long every stage took."""
    most = max(stage.seconds for stage in report.stages) or 1.0
    shown = [
        Bar(
            stage.name,
            stage.seconds / most,
            as_duration(stage.seconds) + (", reused" if stage.reused else ""),
            "frozen" if stage.reused else "slim",
        )
        for stage in report.stages
    ]
    return in_columns("stages", "Time of the stages", shown)
