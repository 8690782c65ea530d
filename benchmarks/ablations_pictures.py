"""Figures of results/ablations.json after ISP's Fig. 4 (terms of the objective) and Fig. 5 (its weights)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from slimsight.deploy.report.canvas import INK, new_figure, save

Row = dict[str, Any]
Figure = Callable[[Row, str], float | None]
"""Of a row and a state; None: not measured."""

TERMS = {
    "interpretation_rbf": "no CE:\nRBF masks",
    "interpretation_realx": "no CE:\nREAL-X",
    "ce_only": "CE only",
    "full": "full (CE +\nRBF masks)",
}
STATES = {"after_surgery": ("right after surgery", "#8aa4b8"), "finetuned": ("finetuned", "#d9822b")}
WEIGHTS = {
    "steer_weight": "g1, weight of the interpretation term",
    "cost_weight": "g2, weight of R_res",
}
FIGURES: dict[str, Figure] = {
    "validation accuracy": lambda row, state: row["val_accuracy"].get(state),
    "centre drift by rbf, px": lambda row, state: row["drift"]["rbf"].get(state, {}).get("center_px"),
    "overlap (IoU) by REAL-X": lambda row, state: row["drift"]["realx"].get(state, {}).get("iou"),
    "overlap of regions by gradient": lambda row, state: row["drift"]["gradient"].get(state, {}).get("iou"),
}
SWEPT = ("validation accuracy", "centre drift by rbf, px", "overlap (IoU) by REAL-X")
_PANEL = (4.6, 4.0)  # inches
_BAR = 0.36


def sweep_along(rows: Sequence[Row], weight: str) -> list[tuple[float, Row]]:
    """The points along one weight, at the seed that was swept: the full recipe in the middle, g1 = 0 is CE alone."""
    seeds = {row["seed"] for row in rows if row["swept"]}
    found = [(row[weight], row) for row in rows if row["recipe"] == "full" and row["swept"] in (None, weight)]
    if weight == "steer_weight":
        found += [(0.0, row) for row in rows if row["recipe"] == "ce_only"]
    return sorted(((at, row) for at, row in found if row["seed"] in seeds), key=lambda pair: pair[0])


def draw(rows: Sequence[Row], folder: Path) -> None:
    """``ablations_terms.png`` and, where weights were swept, ``ablations_weights.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = [row for row in rows if "error" not in row]
    save(_terms_figure([row for row in learned if not row["swept"]]), folder / "ablations_terms.png")
    if weights := [weight for weight in WEIGHTS if len(sweep_along(learned, weight)) > 1]:
        save(_weights_figure(learned, weights), folder / "ablations_weights.png")


def _terms_figure(rows: Sequence[Row]) -> Any:
    figure = new_figure(2 * _PANEL[1], 2.4 * _PANEL[0])
    figure.set_layout_engine("constrained")
    for axes, (title, value) in zip(figure.subplots(2, 2).flatten(), FIGURES.items(), strict=True):
        for place, recipe in enumerate(TERMS):
            found = [row for row in rows if row["recipe"] == recipe]
            for side, (state, (_, colour)) in zip((-0.5, 0.5), STATES.items(), strict=True):
                values = [each for row in found if (each := value(row, state)) is not None]
                if values:
                    _draw_bar(axes, place + side * _BAR, values, colour)
        axes.set_xticks(range(len(TERMS)), list(TERMS.values()), fontsize=10)
        axes.set_xlim(-0.6, len(TERMS) - 0.4)
        axes.set_title(title, fontsize=12, color=INK)
        _style_axes(axes)
    _add_legend(figure)
    return figure


def _draw_bar(axes: Axes, at: float, values: Sequence[float], colour: str) -> None:
    """Mean with its standard deviation, and every seed as a dot."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    axes.bar(at, statistics.mean(values), _BAR, yerr=spread, color=colour, ecolor=INK, capsize=3)
    axes.scatter([at] * len(values), values, s=12, color=INK, zorder=3, alpha=0.7)


def _weights_figure(rows: Sequence[Row], weights: Sequence[str]) -> Any:
    figure = new_figure(_PANEL[1] * len(weights) + 0.5, _PANEL[0] * len(SWEPT))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(weights), len(SWEPT), sharey="col", squeeze=False)
    for line, weight in zip(grid, weights, strict=True):
        points = sweep_along(rows, weight)
        zero = min(at for at, _ in points if at > 0) / 4  # where 0 stands on an axis that has none
        for axes, title in zip(line, SWEPT, strict=True):
            for state, (_, colour) in STATES.items():
                measured = [(at or zero, FIGURES[title](row, state)) for at, row in points]
                places = [at for at, height in measured if height is not None]
                heights = [height for _, height in measured if height is not None]
                start = places.count(zero)  # the way from 0 is not to scale
                axes.plot(places[: start + 1], heights[: start + 1], color=colour, linestyle="dotted", linewidth=2)
                axes.plot(places[start:], heights[start:], color=colour, linewidth=2)
                axes.scatter(places, heights, color=colour, s=36, zorder=3)
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks([at or zero for at, _ in points], [f"{at:g}" for at, _ in points], fontsize=10)
            axes.set_xlabel(WEIGHTS[weight], fontsize=11)
            axes.set_title(title, fontsize=12, color=INK)
            _style_axes(axes)
    _add_legend(figure)
    return figure


def _style_axes(axes: Axes) -> None:
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _add_legend(figure: Any) -> None:
    handles = [figure.axes[0].scatter([], [], s=80, marker="s", color=colour) for _, colour in STATES.values()]
    figure.legend(handles, [name for name, _ in STATES.values()], loc="outside lower center", ncols=2, frameon=False)
