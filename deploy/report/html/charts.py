"""Kinds of charts: scatter, lines, bars, quantile spans, and the curves of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from ..parts import GateHistoryFigures
from ..units import as_count, as_percent_0
from .svg import LETTER, WIDTH, Axes, AxisScale, Child, LegendEntry, fitted, frame, legend, padded, path, tag, text

_LEFT: Final = 56.0  # room for 100.0 % beside the axis
_RIGHT: Final = WIDTH - 10
_BOTTOM_ROOM: Final = 44.0
_ROW: Final = 38.0  # units of a bar with its name above


@dataclass(frozen=True)
class Point:
    """A mark with its name; ``low`` and ``high`` bound ``y``; ``inside``: a letter or two drawn in the mark."""

    name: str
    x: float
    y: float
    colour: str
    low: float | None = None
    high: float | None = None
    inside: str = ""


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar: a share 0..1 of the track, with its name and a label above."""

    name: str
    share: float
    label: str
    colour: str = "slim"


@dataclass(frozen=True)
class Span:
    """Marks on a line, in rising order: a median, a quantile, a largest value."""

    name: str
    label: str
    marks: Sequence[float]
    colour: str = "slim"


def scatter(
    name: str,
    title: str,
    points: Sequence[Point],
    *,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    height: float = 250.0,
) -> Markup:
    """Points over an x axis that starts at zero, with bounds of y as whiskers."""
    ends = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    low, high = padded(ends, share=0.12, least=0.02)
    axes = Axes(
        AxisScale(0, 1.1 * max(p.x for p in points), _LEFT, _RIGHT),
        AxisScale(low, min(high, max(1.0, max(ends))), height - _BOTTOM_ROOM, 34.0),
    )
    ordered = sorted(points, key=lambda p: -p.y)
    whiskers = [_whisker(axes, point) for point in ordered]  # all of them below all marks
    leaders, marks = _marks(axes, ordered)
    summary = "; ".join(f"{p.name}: {x_text(p.x)}, {y_text(p.y)}" for p in points)
    drawn = axes.draw(x_name, y_name, x_text, y_text)
    return frame(
        name, title, f"{x_name} across, {y_name} upwards. {summary}.", height, drawn, *whiskers, *leaders, *marks
    )


def _whisker(axes: Axes, point: Point) -> Markup:
    if point.low is None or point.high is None or point.low == point.high:
        return Markup("")
    x, low, high = axes.x(point.x), axes.y(point.low), axes.y(point.high)
    ends = [tag("line", x1=x - 4, x2=x + 4, y1=y, y2=y, class_=f"line thin {point.colour}") for y in (low, high)]
    return tag("g", tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"line thin {point.colour}"), *ends)


def _marks(axes: Axes, points: Sequence[Point]) -> tuple[list[Markup], list[Markup]]:
    """Lines to marks that had to move aside, and the marks."""
    leaders, marks = [], []
    # Of every plain mark, so that no other point's name is written over it: its left, its right, its text line.
    taken = [(axes.x(p.x) - 6, axes.x(p.x) + 6, axes.y(p.y) + 4) for p in points if not p.inside]
    for point in points:
        x, y = axes.x(point.x), axes.y(point.y)
        at = x
        if point.inside:
            while any(abs(at - (start + end) / 2) < 18 and abs(y - at_y) < 18 for start, end, at_y in taken):
                at += 6
            taken.append((at - 9, at + 9, y))
            mark = text(at, y + 4, point.inside, "inside", "middle")
        else:
            width = LETTER * len(point.name)
            left = x + 10 + width > WIDTH
            start, label = (x - 10 - width if left else x + 10), y + 4
            while any(abs(label - at_y) < 13 and start < end and begin < start + width for begin, end, at_y in taken):
                label += 13
            taken.append((start, start + width, label))
            mark = text(x - 10 if left else x + 10, label, point.name, "label", "end" if left else "start")
        leaders.append(tag("line", x1=x, x2=at, y1=y, y2=y, class_=f"line thin {point.colour}"))
        circle = tag("circle", cx=at, cy=y, r=9 if point.inside else 5, class_=f"fill {point.colour}")
        marks.append(tag("g", tag("title", point.name), circle, mark))
    return leaders, marks


def lines(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    height: float = 220.0,
) -> Markup:
    """Lines over one axis, with a legend where there are several."""
    keys, top = (
        legend([LegendEntry(s.name, s.colour, s.dashed) for s in series])
        if any(s.name for s in series)
        else (Markup(""), 14.0)
    )
    height += top - 14
    xs, ys = ([v for s in series for v in getattr(s, axis)] for axis in ("xs", "ys"))
    x_low, x_high = x_range or (min(xs), max(xs))
    y_low, y_high = y_range or padded(ys)
    axes = Axes(
        AxisScale(x_low, x_high, _LEFT, _RIGHT - 6),
        AxisScale(y_low, y_high, height - _BOTTOM_ROOM, top + 16),
    )
    drawn = []
    for each in series:
        inside = _until(each, x_high)
        dash = " dashed" if each.dashed else ""
        d = path((axes.x(x) for x, _ in inside), (axes.y(y) for _, y in inside))
        drawn.append(tag("path", d=d, class_=f"line {each.colour}{dash}"))
    return frame(name, title, description, height, keys, axes.draw(x_name, y_name, x_text, y_text), *drawn)


def _until(series: Series, most: float) -> list[tuple[float, float]]:
    """The points up to ``most``; the line is cut there."""
    points = list(zip(series.xs, series.ys, strict=True))
    inside = [point for point in points if point[0] <= most]
    if 0 < len(inside) < len(points):
        (x0, y0), (x1, y1) = inside[-1], points[len(inside)]
        inside.append((most, y0 + (y1 - y0) * (most - x0) / (x1 - x0)))
    return inside


def bars(name: str, title: str, rows: Sequence[Bar]) -> Markup:
    """A bar per row: its name and label above, so that long names fit a phone."""
    parts = []
    for number, row in enumerate(rows):
        y = number * _ROW
        width = WIDTH * min(1.0, max(0.0, row.share))
        room = WIDTH - 7.5 * len(row.label) - 16
        parts.append(
            tag(
                "g",
                tag("title", f"{row.name}: {row.label}"),
                text(0.0, y + 13, fitted(row.name, room), "label"),
                text(WIDTH, y + 13, row.label, "tick", "end"),
                tag("rect", x=0, y=y + 19, width=WIDTH, height=10, rx=2, class_="track"),
                tag("rect", x=0, y=y + 19, width=width, height=10, rx=2, class_=f"fill {row.colour}"),
            )
        )
    summary = "; ".join(f"{row.name}: {row.label}" for row in rows)
    return frame(name, title, f"{summary}.", len(rows) * _ROW, *parts)


def in_columns(name: str, title: str, rows: Sequence[Bar], most: int = 12) -> list[Markup]:
    """Bars in charts of about equal length, ``most`` rows or a little less each."""
    count = -(-len(rows) // most)
    size = -(-len(rows) // count)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    titles = [title if count == 1 else f"{title}, part {number} of {count}" for number in range(1, count + 1)]
    return [bars(f"{name}-{number}", titles[number], part) for number, part in enumerate(parts)]


def spans(
    name: str, title: str, rows: Sequence[Span], *, x_name: str, x_text: Callable[[float], str], log: bool = False
) -> Markup:
    """A line per row from its first mark to its last, over one axis; names above."""
    values = [value for row in rows for value in row.marks]
    if log:
        low, high = min(values) / 1.6, max(values) * 1.6
        if high / low < 100:  # two powers of ten, so that there are ticks
            middle = (low * high) ** 0.5
            low, high = middle / 10, middle * 10
    else:
        low, high = 0.0, 1.08 * max(values)
    height = len(rows) * _ROW + 50
    scale = AxisScale(low, high, 8.0, WIDTH - 12, log=log)
    bottom = len(rows) * _ROW + 8
    parts: list[Child] = []
    for value in scale.ticks(5):
        x = scale(value)
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=bottom, class_="grid"))
        parts.append(text(x, bottom + 16, x_text(value), "tick", "middle"))
    parts.append(text(WIDTH - 4, bottom + 34, x_name, "axis-name", "end"))
    for number, row in enumerate(rows):
        y, ends = number * _ROW, [scale(value) for value in row.marks]
        room = WIDTH - 6.9 * len(row.label) - 12
        marks = []
        if ends:
            marks.append(tag("line", x1=ends[0], x2=ends[-1], y1=y + 25, y2=y + 25, class_=f"line {row.colour}"))
            marks.append(tag("circle", cx=ends[0], cy=y + 25, r=4.5, class_=f"fill {row.colour}"))
        marks += [tag("line", x1=x, x2=x, y1=y + 20, y2=y + 30, class_=f"line {row.colour}") for x in ends[1:]]
        parts.append(
            tag(
                "g",
                tag("title", f"{row.name}: {row.label}"),
                text(0.0, y + 13, fitted(row.name, room), "label ground"),
                text(WIDTH, y + 13, row.label, "tick ground", "end"),
                *marks,
            )
        )
    summary = "; ".join(f"{row.name}: {row.label}" for row in rows)
    return frame(name, title, f"{summary}.", height, *parts)


def gate_charts(
    runs: Sequence[tuple[str, str, GateHistoryFigures]], *, single: bool = False, labelled: bool = True
) -> list[tuple[str, Markup]]:
    """Titles and charts of gate learning, of runs (name, colour, history): MACs, cross entropy, steering.

    ``single``: the page shows one run, whose name is left out. ``labelled``: False where gates learned from the
    original's predictions, by KL.
    """
    loss = "cross entropy" if labelled else "KL from the original"
    macs = [Series("relaxed gates" if single else name, colour, h.step, h.macs) for name, colour, h in runs]
    targets = [Series("target", "target", h.step, h.target, dashed=True) for _, _, h in runs]
    summary = "; ".join(f"{name}: from {as_percent_0(h.macs[0])} to {as_percent_0(h.macs[-1])}" for name, _, h in runs)
    title = "MACs under the gates, and their target"
    chart = lines(
        "gates-macs",
        title,
        f"Share of the original's MACs over the steps. {summary}.",
        [*macs, *(targets if single else targets[:1])],
        x_name="step",
        y_name="share of the original's MACs",
        x_text=as_count,
        y_text=as_percent_0,
        y_range=(0.0, 1.02 * max(max(*h.macs, *h.target) for _, _, h in runs)),
    )
    charts = [(title, chart)]
    for key, title, y_name in (
        ("ce", f"{loss[0].upper()}{loss[1:]} while gates learn", f"{loss}, nats"),
        ("steer", "Distance of the explanations while gates learn", "distance of explanations"),
    ):
        known = [(name, colour, h.step, ys) for name, colour, h in runs if (ys := getattr(h, key)) is not None]
        if not known:
            continue
        summary = "; ".join(f"{name}: from {ys[0]:.3g} to {ys[-1]:.3g}" for name, _, _, ys in known)
        top = max(max(ys) for _, _, _, ys in known)
        chart = lines(
            f"gates-{key}",
            title,
            f"{y_name} over the steps. {summary}.",
            [Series("" if single else name, colour, steps, ys) for name, colour, steps, ys in known],
            x_name="step",
            y_name=y_name,
            x_text=as_count,
            y_text="{:.3g}".format,
            y_range=(0.0, 1.05 * top if top > 0 else 1.0),
        )
        charts.append((title, chart))
    return charts
