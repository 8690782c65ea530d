"""Comparison of runs: their differing settings, and their figures side by side with the best marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from markupsafe import Markup

from slimsight.compress.amounts import as_duration

from ...settings.yaml_text import dump_yaml
from ..rows import AGREES, interval_text, signed_points
from ..schema import Interval, Report, SaliencyFigures
from ..table import Table
from ..units import (
    as_bytes,
    as_count,
    as_error,
    as_macs,
    as_macs_tick,
    as_ms,
    as_percent,
    as_percent_1,
    as_px,
    as_times,
    latency_label,
)
from .charts import Point, gate_charts, scatter
from .facts import NOT_MEASURED, HeadlineAccuracy, accuracy_points
from .source import RunPage
from .views import TitledChart

_COLOURS: Final = 8
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Best:
    """A cell that is the best of its row."""

    text: str


@dataclass(frozen=True)
class FigureRow:
    """A figure of every run: its value where it has one, and how it is printed.

    ``intervals``: of speed-ups, printed and compared with their bounds.
    """

    name: str
    values: Sequence[float | None]
    to_text: Callable[[float], str]
    better: Literal["low", "high"] | None = None
    intervals: Sequence[Interval | None] | None = None

    def cell(self, number: int) -> str:
        """The figure of run ``number`` as printed."""
        value = self.values[number]
        if value is None:
            return NOT_MEASURED
        interval = None if self.intervals is None else self.intervals[number]
        return self.to_text(value) if interval is None else interval_text(interval)

    def best(self) -> set[int]:
        """The runs with the best value as printed; none where all print the same.

        Of speed-ups, every run whose interval reaches that of the best: none of those is clearly behind.
        """
        known = {number: value for number, value in enumerate(self.values) if value is not None}
        if self.better is None or len(known) < 2:
            return set()
        printed = self.to_text((min if self.better == "low" else max)(known.values()))
        best = {number for number, value in known.items() if self.to_text(value) == printed}
        if self.intervals is not None and len(best) < len(known):
            timed = {number: each for number, each in enumerate(self.intervals) if each is not None}
            lowest = min(timed[number].low for number in best)
            best = {number for number, each in timed.items() if each.high >= lowest}
        return set() if len(best) == len(known) else best


def letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    head, tail = divmod(number, len(_LETTERS))
    return (letter(head - 1) if head else "") + _LETTERS[tail]


def colour(number: int) -> str:
    """The CSS class of a run's colour; runs that share one differ by letter."""
    return f"run-{number % _COLOURS + 1}"


def figures(reports: Sequence[Report]) -> list[FigureRow]:
    """All figures that at least one run has."""

    def of(take: Callable[[Report], float | None]) -> list[float | None]:
        return [take(report) for report in reports]

    def saliency(take: Callable[[SaliencyFigures], float | None]) -> list[float | None]:
        return [None if report.saliency is None else take(report.saliency) for report in reports]

    moved = saliency(lambda s: s.center_drift_px)
    regions = saliency(lambda s: s.maps.region_iou.mean if s.maps else None)
    top_moved = saliency(lambda s: s.maps.moved.mean if s.maps else None)
    gated = of(lambda r: r.gated.val_accuracy if r.gated else None)
    dynamic = of(lambda r: r.dynamic.test_accuracy if r.dynamic else None)
    parity = of(lambda r: max((row.max_abs for row in r.parity if row.max_abs is not None), default=None))
    rows = [
        FigureRow("MACs, slim", of(lambda r: r.slim.macs), as_macs, "low"),
        FigureRow("share of the original's MACs", of(lambda r: r.slim.macs / r.original.macs), as_percent_1, "low"),
        FigureRow("parameters, slim", of(lambda r: r.slim.params), as_count, "low"),
        FigureRow("size of the weights, slim", of(lambda r: r.slim.size_bytes), as_bytes, "low"),
        FigureRow("validation accuracy, original", of(lambda r: r.original.val_accuracy), as_percent),
        FigureRow("validation accuracy, slim", of(lambda r: r.slim.val_accuracy), as_percent, "high"),
        FigureRow("test accuracy, original", of(lambda r: r.original.test_accuracy), as_percent),
        FigureRow("test accuracy, slim", of(lambda r: r.slim.test_accuracy), as_percent, "high"),
        FigureRow("test accuracy, change", of(_change), signed_points, "high"),
        FigureRow("validation accuracy before finetuning", gated, as_percent, "high"),
        FigureRow(AGREES, of(lambda r: None if r.agreement is None else r.agreement.top1), as_percent, "high"),
        *_latencies(reports),
        FigureRow("MACs, dynamic, mean", of(lambda r: r.dynamic.macs_mean if r.dynamic else None), as_macs, "low"),
        FigureRow("test accuracy, dynamic", dynamic, as_percent, "high"),
        FigureRow("centre of the explanation moved by", moved, as_px, "low"),
        FigureRow("overlap of the two maps", saliency(lambda s: s.iou), as_percent_1, "high"),
        FigureRow("overlap of the regions with half of the mass", regions, as_percent_1, "high"),
        FigureRow("images whose top region moved", top_moved, as_percent_1, "low"),
        FigureRow("exactness, largest relative difference", of(lambda r: r.exactness.gated_vs_slim_max_rel), as_error),
        FigureRow("parity, largest difference of logits", parity, as_error),
        FigureRow("time of all stages", of(lambda r: sum(s.seconds for s in r.stages) or None), as_duration),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def _change(report: Report) -> float | None:
    old, new = report.original.test_accuracy, report.slim.test_accuracy
    return None if old is None or new is None else new - old


def _latencies(reports: Sequence[Report]) -> list[FigureRow]:
    labels = dict.fromkeys(latency_label(row) for report in reports for row in report.latency)
    figures = []
    for label in labels:
        timed = [next((row for row in r.latency if latency_label(row) == label), None) for r in reports]
        medians = [None if row is None else row.slim_ms.median for row in timed]
        figures.append(FigureRow(f"median latency, slim, {label}", medians, as_ms))
        intervals = [None if row is None else row.speedup for row in timed]
        ratios = [None if each is None else each.median for each in intervals]
        figures.append(FigureRow(f"speed-up, {label}", ratios, as_times, "high", intervals))
    return figures


def figure_table(pages: Sequence[RunPage]) -> tuple[list[str], list[tuple[str, list[str | Best]]]]:
    """Heads, and a row per figure: its name and a cell per run, the best of them as ``Best``."""
    table: list[tuple[str, list[str | Best]]] = []
    for row in figures([page.report for page in pages]):
        best, cells = row.best(), [row.cell(number) for number in range(len(pages))]
        table.append((row.name, [Best(cell) if number in best else cell for number, cell in enumerate(cells)]))
    return [letter(number) for number in range(len(pages))], table


def recipe_table(pages: Sequence[RunPage]) -> Table:
    """Settings that are not the same in all runs."""
    recipes = [page.settings or {} for page in pages]
    names = dict.fromkeys(name for settings in recipes for name in settings)
    differing = [name for name in names if len({_setting_text(settings, name) for settings in recipes}) > 1]
    head = ["setting", *(letter(number) for number in range(len(pages)))]
    rows = [[name, *(_setting_text(settings, name) for settings in recipes)] for name in differing]
    return Table(head, rows, "l" * len(head))


def _setting_text(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "not in this recipe"
    return dump_yaml(settings[name]).strip().removesuffix("...").strip() or "null"


def differences(pages: Sequence[RunPage]) -> list[str]:
    """What makes figures of these runs hard to compare, in sentences."""
    reports = [page.report for page in pages]
    sentences = []
    if len({(r.data.source, r.data.train, r.data.val, r.data.test, r.data.classes) for r in reports if r.data}) > 1:
        sentences.append("The runs used different images: their accuracies are not of the same test.")
    if len({r.original.macs for r in reports}) > 1:
        sentences.append("The originals are different models.")
    elif len({(r.original.val_accuracy, r.original.test_accuracy) for r in reports}) > 1:
        sentences.append("The originals were trained apart and differ in accuracy: compare the changes, too.")
    if len({r.device for r in reports}) > 1:
        sentences.append("The runs were made on different machines: compare their speed-ups, not their milliseconds.")
    if len({tuple(r.versions.items()) for r in reports}) > 1:
        sentences.append("Versions of packages differ.")
    return sentences


def tradeoff(pages: Sequence[RunPage]) -> Markup:
    """Accuracy against MACs: every original once, every slim and dynamic model by its run's letter."""
    names = {HeadlineAccuracy.of(page.report).name for page in pages}
    y_name = names.pop() if len(names) == 1 else "accuracy"
    points: list[Point] = []
    originals = dict.fromkeys(accuracy_points(page.report)["original"] for page in pages)
    few = len(originals) <= 3
    points += [Point("original" if few else "", at.macs, at.accuracy, "original", at.low, at.high) for at in originals]
    for number, page in enumerate(pages):
        for model, at in accuracy_points(page.report).items():
            if model != "original":
                mark = letter(number) if model == "slim" else f"{letter(number)}*"
                name = f"{mark} {page.name}, {model}"
                points.append(Point(name, at.macs, at.accuracy, colour(number), at.low, at.high, mark))
    return scatter(
        "tradeoff-runs",
        f"{y_name.capitalize()} against MACs, all runs",
        points,
        x_name="MACs per image",
        y_name=y_name,
        x_text=as_macs_tick,
        y_text=as_percent_1,
        height=290.0,
    )


def gates(pages: Sequence[RunPage]) -> list[TitledChart]:
    """Gate curves of all runs that kept theirs."""
    histories = [
        (f"{letter(number)} {page.name}", colour(number), page.report.gates.history)
        for number, page in enumerate(pages)
        if page.report.gates is not None and page.report.gates.history is not None
    ]
    labelled = all(page.report.labelled for page in pages)
    return gate_charts(histories, labelled=labelled) if histories else []


def channel_table(pages: Sequence[RunPage]) -> Table:
    """Channels kept of every group in every run."""
    kept = [{row.group: f"{row.kept:,} of {row.total:,}" for row in page.report.channels} for page in pages]
    names = dict.fromkeys(name for groups in kept for name in groups)
    head = ["group", *(letter(number) for number in range(len(pages)))]
    return Table(
        head, [[name, *(groups.get(name, NOT_MEASURED) for groups in kept)] for name in names], "l" + "r" * len(pages)
    )
