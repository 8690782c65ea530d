"""Figures of explanation tests: a curve per explainer, with its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..report.canvas import save

_PANEL_SIZE: Final = (6.4, 4.6)  # inches
_LEGEND_WIDTH: Final = 2.4
_COLOURS: Final = colormaps["tab10"]
_CONTROL_COLOUR: Final = "#6b7278"
_DASHES: Final = ("solid", "dashed", "dotted")


@dataclass(frozen=True)
class CurveLine:
    """The curve of one explainer: ``y`` with standard errors over ``x``; None leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    errors: Sequence[float | None]


@dataclass(frozen=True)
class CurvePanel:
    """A panel of a figure: its curves and axis labels. ``ticks``: labels of x = 0, 1, ...; ``limits`` of y."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[CurveLine]
    ticks: Sequence[str] = ()
    limits: tuple[float, float] | None = None


def draw_curves(path: Path, panels: Sequence[CurvePanel], *, control: str, names: Sequence[str] = ()) -> None:
    """Draw ``panels`` in rows of up to three with one legend; the control is a thick grey line.

    ``names``: of all lines of several figures, so that a line has the same style in each.
    """
    assert panels
    columns = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL_SIZE[0] * columns + _LEGEND_WIDTH, _PANEL_SIZE[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys([*names, *(line.name for panel in panels for line in panel.lines)]))
    styles = _line_styles([name for name in names if name != control]) | {
        control: {"color": _CONTROL_COLOUR, "linestyle": "dashdot", "linewidth": 3}
    }
    handles: dict[str, Any] = {}
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for spare in grid[len(panels) :]:
        spare.set_axis_off()
    for axes, panel in zip(grid, panels, strict=False):
        for line in panel.lines:
            handles[line.name] = _draw_line(axes, line, styles[line.name])
        axes.set_title(panel.title, fontsize=12)
        axes.set_xlabel(panel.x_label, fontsize=11)
        axes.set_ylabel(panel.y_label, fontsize=11)
        if panel.ticks:
            axes.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=60, ha="right", fontsize=7)
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    listed = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in listed],
        listed,
        loc="outside right upper",
        fontsize=10,
        frameon=False,
        handlelength=3,
    )
    save(figure, path)


def _line_styles(names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """A style for each name: ten colours, with other dashes where they repeat."""
    return {
        name: {"color": _COLOURS(index % 10), "linestyle": _DASHES[index // 10 % 3], "linewidth": 1.8}
        for index, name in enumerate(names)
    }


def _draw_line(axes: Axes, line: CurveLine, style: Mapping[str, Any]) -> Any:
    y = np.array([np.nan if value is None else value for value in line.y])
    errors = np.array([value or 0.0 for value in line.errors])
    axes.fill_between(line.x, y - errors, y + errors, color=style["color"], alpha=0.18, linewidth=0)
    return axes.plot(line.x, y, marker="o" if len(line.x) < 30 else None, markersize=3, **style)[0]
