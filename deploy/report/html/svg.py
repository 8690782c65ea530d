"""Charts as inline SVG: elements, axes and frames. Colours are CSS classes, so that they follow the theme.

Charts are 360 units wide with letters of 12: about a phone's width, where they are still read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from ..units import shortened

WIDTH: Final = 360.0
LETTER: Final = 6.7  # units that a letter takes on average

Child = Markup | str


def tag(name: str, *children: Child, **attributes: object) -> Markup:
    """An element; text and values are escaped. ``class_`` is class, ``_`` in other names is ``-``; None: left out."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup(f"<{name}{''.join(parts)}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Elements concatenated; plain text is escaped."""
    return Markup("").join(children)


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def frame(name: str, title: str, description: str, height: float, *children: Child, width: float = WIDTH) -> Markup:
    """The chart's svg element. ``name`` is unique on its page; screen readers read title and description."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *children,
        class_="chart",
        viewBox=f"0 0 {width:g} {_value(float(height))}",
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )


def text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """A line of text; ``anchor``: start, middle or end."""
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def fitted(words: str, width: float) -> str:
    """``words`` shortened to ``width`` units."""
    return shortened(words, max(5, int(width / LETTER)))


@dataclass(frozen=True)
class AxisScale:
    """From values to units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within: steps of 1, 2 or 5 times a power of ten; of a logarithmic scale powers of ten."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / most))
            return [10.0**power for power in range(first, last + 1, stride)]
        if self.high <= self.low:
            return [self.low]
        raw = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * times for times in (1, 2, 5, 10) if size * times >= raw * (1 - 1e-9))
        start = math.ceil(self.low / step - 1e-9)
        numbers = range(start, math.floor(self.high / step + 1e-9) + 1)
        return list(dict.fromkeys(step * number for number in numbers))  # neighbours may round to one number


def padded(values: Sequence[float], *, share: float = 0.08, least: float = 0.0) -> tuple[float, float]:
    """The range of ``values`` with some room on both sides; ``least`` is its smallest width."""
    low, high = min(values), max(values)
    room = max(share * (high - low), (least - (high - low)) / 2, 1e-12)
    return low - room, high + room


@dataclass(frozen=True)
class Axes:
    """The area that a chart draws in, with both scales."""

    x: AxisScale
    y: AxisScale

    def draw(
        self,
        x_name: str,
        y_name: str,
        x_text: Callable[[float], str],
        y_text: Callable[[float], str],
        *,
        x_ticks: int = 4,
    ) -> Markup:
        """Grid, ticks and names. The name of y stands above its axis, where it needs no turning of heads."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts: list[Child] = []
        for value in self.y.ticks(5):
            y = self.y(value)
            parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(text(left - 6, y + 4, y_text(value), "tick", "end"))
        for value in self.x.ticks(x_ticks):
            x = self.x(value)
            parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
            parts.append(text(x, bottom + 18, x_text(value), "tick", "middle"))
        parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        parts.append(text(right, bottom + 36, x_name, "axis-name", "end"))
        parts.append(text(4.0, top - 12, y_name, "axis-name"))
        return tag("g", *parts, aria_hidden="true")


@dataclass(frozen=True)
class LegendEntry:
    """A line of a legend: its name, its class, and whether it is dashed."""

    name: str
    colour: str
    dashed: bool = False


def legend(entries: Sequence[LegendEntry], top: float = 14.0) -> tuple[Markup, float]:
    """Swatches with names in as many lines as they need, and where the next thing may stand; nothing for no entry."""
    if not entries:
        return Markup(""), top
    parts: list[Child] = []
    x, y = 4.0, top
    for entry in entries:
        needs = 28 + LETTER * len(entry.name) + 12
        if x > 4 and x + needs > WIDTH:
            x, y = 4.0, y + 18
        dash = " dashed" if entry.dashed else ""
        parts.append(tag("line", x1=x, x2=x + 22, y1=y - 4, y2=y - 4, class_=f"line {entry.colour}{dash}"))
        parts.append(text(x + 28, y, entry.name, "label"))
        x += needs
    return tag("g", *parts, aria_hidden="true"), y + 26


def path(xs: Iterable[float], ys: Iterable[float]) -> str:
    """Straight lines from point to point, as the ``d`` of a path."""
    points = [f"{_value(float(x))} {_value(float(y))}" for x, y in zip(xs, ys, strict=True)]
    return f"M{'L'.join(points)}"
