"""The figure of a bench: a line per row, median times on the left, speed-ups on the right, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from ..report.canvas import save
from ..report.units import as_ms
from .result import BenchResult, BenchRow

_DPI: Final = 100
_WIDTH: Final = 14.0  # inches
_ROW_HEIGHT: Final = 0.34  # inches per row
_TOP_MARGIN: Final = 1.0  # inches, for the title; below for the axis label
_BOTTOM_MARGIN: Final = 1.05
_LOG_FROM: Final = 8.0  # ratio of largest to smallest value from which an axis is logarithmic
_BLACK: Final = "#22272b"
_GREY: Final = "#9aa3ab"
_COLOURS: Final = ("#2a6f97", "#c1121f", "#3a7d44", "#8a5a00", "#6a4c93", "#00798c")


def draw_bench(result: BenchResult, path: Path) -> None:
    """Write the figure (PNG) of a result that has at least one row."""
    assert result.rows
    lines = _labelled_rows(result.rows)
    height = _TOP_MARGIN + _BOTTOM_MARGIN + _ROW_HEIGHT * len(lines)
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    longest = max(len(text) for text, _ in lines)
    left = min(0.42, (0.35 + 0.082 * longest) / _WIDTH)
    grid = figure.add_gridspec(
        1,
        2,
        left=left,
        right=0.985,
        top=1 - _TOP_MARGIN / height,
        bottom=_BOTTOM_MARGIN / height,
        wspace=0.07,
        width_ratios=(1.25, 1),
    )
    times, ratios = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    colours = _colours_by_model(result.rows)
    for y, (_, row) in enumerate(lines):
        if row is not None:
            _draw_time(times, y, row, colours[row.model])
            _draw_speedup(ratios, y, row, colours[row.model])
    _finish_times(times, lines)
    _finish_ratios(ratios, result, len(lines))
    figure.text(0.012, 1 - 0.32 / height, "slimsight bench", fontsize=15, fontweight="bold", color=_BLACK, va="center")
    figure.text(0.012, 1 - 0.64 / height, _subtitle(result), fontsize=10.5, color=_BLACK, va="center")
    save(figure, path, dpi=_DPI)


def _subtitle(result: BenchResult) -> str:
    row = result.rows[0]
    noisy = "; VERDICT: NOISY (hollow marks), measure again on a quieter machine" if result.verdict == "noisy" else ""
    return (
        f"{result.machine['processor']}, {row.sessions} sessions, up to {result.settings['rounds']} rounds a row{noisy}"
    )


def _labelled_rows(rows: Sequence[BenchRow]) -> list[tuple[str, BenchRow | None]]:
    """Labels with their rows from top to bottom; a heading (row None) before each sweep point."""
    lines: list[tuple[str, BenchRow | None]] = []
    point = ""
    for row in rows:
        if row.point != point:
            point = row.point
            lines.append((point, None))
        lines.append((f"{row.model} in {row.runtime}", row))
    return lines


def _colours_by_model(rows: Sequence[BenchRow]) -> dict[str, str]:
    names = dict.fromkeys(row.model for row in rows)
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}


def _draw_time(axes: Axes, y: int, row: BenchRow, colour: str) -> None:
    low, high = row.median_interval_ms
    axes.plot([row.host_ms.median, row.host_ms.p90], [y, y], color=colour, lw=1, alpha=0.45)
    axes.plot([row.host_ms.p90], [y], marker="|", color=colour, ms=8, alpha=0.45)
    axes.plot([low, high], [y, y], color=colour, lw=4, alpha=0.45, solid_capstyle="butt")
    _draw_mark(axes, row.host_ms.median, y, colour, hollow=bool(row.noise))
    _annotate(axes, as_ms(row.host_ms.median), max(row.host_ms.p90, high), y)


def _draw_speedup(axes: Axes, y: int, row: BenchRow, colour: str) -> None:
    if row.speedup is None:
        _draw_mark(axes, 1.0, y, _GREY, hollow=False)
        _annotate(axes, "baseline", 1.0, y, offset=8)
        return
    speedup = row.speedup
    axes.plot([speedup.low, speedup.high], [y, y], color=colour, lw=4, alpha=0.45, solid_capstyle="butt")
    _draw_mark(axes, speedup.median, y, colour, hollow=bool(row.noise))
    _annotate(axes, f"{speedup.median:.3f} ({speedup.low:.3f} to {speedup.high:.3f})", speedup.high, y)


def _annotate(axes: Axes, text: str, x: float, y: int, *, offset: int = 6) -> None:
    axes.annotate(text, (x, y), (offset, 0), textcoords="offset points", va="center", fontsize=9, color=_BLACK)


def _draw_mark(axes: Axes, x: float, y: int, colour: str, *, hollow: bool) -> None:
    axes.plot([x], [y], marker="o", ms=6.5, color=colour, markerfacecolor="white" if hollow else colour)


def _finish_times(axes: Axes, lines: Sequence[tuple[str, BenchRow | None]]) -> None:
    rows = [row for _, row in lines if row is not None]
    axes.set_yticks(range(len(lines)), [text for text, _ in lines])
    for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set(fontsize=10, color=_BLACK, fontweight="bold" if row is None else "normal")
    smallest = min(min(row.host_ms.median, row.median_interval_ms[0]) for row in rows)
    largest = max(max(row.host_ms.p90, row.median_interval_ms[1]) for row in rows)
    axes.set_xlabel("time of one call, ms\ndot: median; bar: its 95 % interval; thin line: to p90", fontsize=10)
    _set_scale(axes, smallest, largest, start_at_zero=True)
    _frame_axes(axes, len(lines))


def _finish_ratios(axes: Axes, result: BenchResult, count: int) -> None:
    speedups = [row.speedup for row in result.rows if row.speedup is not None]
    axes.set_yticks([])
    axes.axvline(1.0, color=_GREY, lw=1, zorder=0)
    axes.set_xlabel(
        f"times as fast as the baseline ({result.baseline}) at the same point\ndot: speed-up; bar: its 95 % interval",
        fontsize=10,
    )
    _set_scale(
        axes, min([1.0, *(x.low for x in speedups)]), max([1.0, *(x.high for x in speedups)]), start_at_zero=False
    )
    _frame_axes(axes, count)


def _set_scale(axes: Axes, smallest: float, largest: float, *, start_at_zero: bool) -> None:
    """Set scale and limits of the x axis, with room on the right for the text beside each mark."""
    if largest / smallest > _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.3, largest * (largest / smallest) ** 0.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        return
    low = 0.0 if start_at_zero else smallest - 0.08 * max(largest - smallest, 0.05)
    axes.set_xlim(low, largest + 0.42 * max(largest - low, 0.05))


def _frame_axes(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.grid(axis="x", color="#e6eaed", zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
