"""Charts of a run's HTML page, by section."""

from __future__ import annotations

from markupsafe import Markup

from .. import rows
from ..schema import LatencyFigures, Report
from ..units import as_duration, as_error, as_macs, as_ms, as_percent, latency_label
from .charts import Bar, Point, Series, Span, bars, gate_charts, in_columns, lines, scatter, spans
from .facts import HeadlineAccuracy, accuracy_points

Titled = tuple[str, Markup]
"""A chart and its caption."""


def tradeoff(report: Report) -> list[Titled]:
    """Accuracy against MACs, and against latency in every row that was timed."""
    name, accuracies = HeadlineAccuracy.of(report).name, accuracy_points(report)
    points = [Point(model, at.macs, at.accuracy, model, at.low, at.high) for model, at in accuracies.items()]
    title = f"{name.capitalize()} against MACs"
    chart = scatter(
        "tradeoff-macs",
        title,
        points,
        x_name="MACs per image",
        y_name=name,
        x_text=lambda value: as_macs(value).replace(".00", ""),
        y_text=lambda value: as_percent(value, 1),
    )
    charts = [(title, chart)]
    for number, row in enumerate(report.latency):
        times = {"original": row.original_ms, "slim": row.slim_ms, "dynamic": row.dynamic_ms}
        points = [
            Point(model, ms.median, at.accuracy, model, at.low, at.high)
            for model, ms in times.items()
            if ms is not None and (at := accuracies.get(model)) is not None
        ]
        title = f"{name.capitalize()} against latency, {latency_label(row)}"
        chart = scatter(
            f"tradeoff-latency-{number}",
            title,
            points,
            x_name="median time of a call",
            y_name=name,
            x_text=lambda value: f"{value:.3g} ms",
            y_text=lambda value: as_percent(value, 1),
        )
        charts.append((title, chart))
    return charts


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


def gates(report: Report) -> list[Titled]:
    """Gate curves; empty where no gates were learned, or no history was kept."""
    history = report.gates.history if report.gates else None
    return gate_charts([("gates", "slim", history)], single=True) if history else []


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


def latency(report: Report) -> list[Titled]:
    """The distribution of every row that kept one, else its quantiles."""
    return [
        (title, _latency_chart(f"latency-{number}", title, row))
        for number, row in enumerate(report.latency)
        for title in (f"Time of a call, {latency_label(row)}",)
    ]


def _latency_chart(name: str, title: str, row: LatencyFigures) -> Markup:
    times = {"original": row.original_ms, "slim": row.slim_ms, "dynamic": row.dynamic_ms}
    kept = row.percentiles_ms

    def short(value: float) -> str:
        return f"{value:.3g} ms"

    if kept is None:
        quantiles = [
            Span(model, f"median {as_ms(ms.median)}, p99 {as_ms(ms.p99)}", (ms.median, ms.p90, ms.p99), model)
            for model, ms in times.items()
            if ms is not None
        ]
        return spans(name, title, quantiles, x_name="time of a call", x_text=short)
    percentiles = {"original": kept.original, "slim": kept.slim, "dynamic": kept.dynamic}
    series = [
        Series(model, model, ms, [percent / 100 for percent in kept.percent])
        for model, ms in percentiles.items()
        if ms is not None
    ]
    least = min(s.xs[0] for s in series)
    known = [ms for ms in times.values() if ms is not None]
    # The slowest calls would squeeze the rest: a busy machine makes single ones ten times as long.
    most = min(max(ms.p99 for ms in known), 2 * max(ms.median for ms in known))
    words = "; ".join(
        f"{model}: median {as_ms(ms.median)}, p90 {as_ms(ms.p90)}, p99 {as_ms(ms.p99)}"
        for model, ms in times.items()
        if ms is not None
    )
    return lines(
        name,
        title,
        f"Share of the calls that took at most so long. {words}.",
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
