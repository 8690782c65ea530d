"""Explanations of two models side by side: of one image by several explainers, or of the images that drifted most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from .canvas import (
    INK,
    ORIGINAL_COLOUR,
    SLIM_COLOUR,
    WIDTH,
    WRONG_COLOUR,
    WRONG_MARK,
    Bytes,
    Maps,
    head,
    heat_key,
    new_figure,
    outline,
    outline_key,
    save,
    show,
    to_heat,
)

UNCERTAINTY_COLOURS: Final = "cividis"
_CELL: Final = 2.6  # inches of a map's side
_GAP: Final = 0.12
_KEY: Final = 1.0  # inches at the bottom, for colour bars and lines
_LINE: Final = 0.26  # inches between two lines of text
_PIECES: Final = 8  # a region in more pieces than this is a scribble: its outline is not drawn
_CLIP: Final = 99  # percentile of a map that has the full colour: gradients have single pixels far above the rest
_CHARACTER: Final = 0.095  # inches that a character of the text takes at most, on average


@dataclass(frozen=True)
class DrawableMaps:
    """One model's explanation of one image.

    Args:
        mass: (H, W) not negative; what is drawn is its share of its 99th percentile.
        region: (H, W) bool, the pixels that hold half of the mass.
        centre: row and column in pixels; None for a degenerate map.
        degenerate: why the map is degenerate (``constant map``), or None.
        uncertainty: (H, W) standard deviation, where the explainer knows it.
    """

    mass: Maps
    region: NDArray[np.bool_]
    centre: tuple[float, float] | None
    degenerate: str | None = None
    uncertainty: Maps | None = None


@dataclass(frozen=True)
class PanelRow:
    """One explainer's maps of an image for both models, and lines of text beside them."""

    name: str
    original: DrawableMaps
    slim: DrawableMaps
    notes: Sequence[str]


@dataclass(frozen=True)
class DriftRow:
    """An image that drifted: its title, the text below, and whether the slim model is wrong."""

    title: str
    note: str
    image: Bytes
    original: DrawableMaps
    slim: DrawableMaps
    wrong: bool


def draw_panel(path: Path, image: Bytes, title: str, lines: Sequence[str], rows: Sequence[PanelRow]) -> None:
    """One image (3, H, W) with what is known of it, then a row per explainer: original and slim side by side."""
    uncertain = any(m.uncertainty is not None for row in rows for m in (row.original, row.slim))
    maps = 4 if uncertain else 2
    tall = _CELL * image.shape[1] / image.shape[2]
    text = 3.9
    width = 0.3 + maps * (_CELL + _GAP) + text
    header, names = max(tall, _LINE * (len(lines) + 2)) + 0.3, 0.35
    height = header + names + len(rows) * (tall + _GAP) + _KEY
    figure = new_figure(height, width)

    def cell(column: int, top: float) -> Axes:
        left = 0.15 + column * (_CELL + _GAP)
        return figure.add_axes((left / width, 1 - (top + tall) / height, _CELL / width, tall / height))

    show(cell(0, 0.15), image.transpose(1, 2, 0))
    left = (0.15 + _CELL + 2 * _GAP) / width
    title = _short(title, 0.75 * (width - 3.3))  # in larger letters
    figure.text(left, 1 - 0.4 / height, title, fontsize=15, fontweight="bold", color=INK, parse_math=False)
    for number, line in enumerate(lines):
        colour = WRONG_COLOUR if line.startswith(WRONG_MARK) else INK
        place = 1 - (0.75 + number * _LINE) / height
        figure.text(left, place, _short(line, width - 3.3), fontsize=12.5, color=colour, parse_math=False)
    for number, row in enumerate(rows):
        top = header + names + number * (tall + _GAP)
        cells = [cell(column, top) for column in range(maps)]
        if number == 0:
            titles = ["original", "slim", "original, uncertainty", "slim, uncertainty"]
            head(cells, titles[:maps], 1 + 0.08 / tall)
        draw_pair(cells[0], cells[1], image, row.original, row.slim)
        _draw_uncertainty(cells[2:], image, row.original, row.slim)
        beside = (0.15 + maps * (_CELL + _GAP) + _GAP) / width
        figure.text(
            beside, 1 - (top + 0.3) / height, row.name, fontsize=14, fontweight="bold", color=INK, parse_math=False
        )
        for index, note in enumerate(row.notes, 1):
            place = 1 - (top + 0.35 + index * _LINE) / height
            figure.text(beside, place, note, fontsize=12, color=INK, parse_math=False)
    _add_key(figure, uncertain)
    save(figure, path)


def draw_drift(path: Path, rows: Sequence[DriftRow], *, blocks: int = 2) -> None:
    """A row per image, worst first down the columns: image, map of the original, map of the slim model."""
    assert rows
    blocks = min(blocks, len(rows))
    count = -(-len(rows) // blocks)
    side_by_side = WIDTH / blocks
    text = 2.0 if blocks > 1 else 4.0
    size = (side_by_side - 0.3 - text) / 3 - _GAP
    size = min(size, _CELL)
    tall = size * rows[0].image.shape[1] / rows[0].image.shape[2]
    names, above = 0.4, 0.34
    height = names + count * (tall + above) + _KEY
    figure = new_figure(height)
    for index, row in enumerate(rows):
        block, place = divmod(index, count)
        top = names + place * (tall + above) + above
        cells = []
        for column in range(3):
            left = block * side_by_side + 0.15 + column * (size + _GAP)
            cells.append(figure.add_axes((left / WIDTH, 1 - (top + tall) / height, size / WIDTH, tall / height)))
        show(cells[0], row.image.transpose(1, 2, 0))
        draw_pair(cells[1], cells[2], row.image, row.original, row.slim)
        if place == 0:
            head(cells, ("image", "original", "slim"), 1 + above / tall)
        colour, mark = (WRONG_COLOUR, WRONG_MARK) if row.wrong else (INK, "")
        cells[0].set_title(
            mark + _short(row.title, 3 * size), fontsize=13, color=colour, loc="left", pad=4, parse_math=False
        )
        beside = (block * side_by_side + 0.2 + 3 * (size + _GAP)) / WIDTH
        figure.text(
            beside,
            1 - (top + 0.1) / height,
            "\n".join(_short(line, text) for line in row.note.splitlines()),
            fontsize=12,
            color=INK,
            va="top",
            linespacing=1.5,
            parse_math=False,
        )
    _add_key(figure, uncertain=False, wrong=any(row.wrong for row in rows))
    save(figure, path)


def _short(line: str, inches: float) -> str:
    """``line`` cut to ``inches`` in the panel's text size."""
    most = int(inches / _CHARACTER)
    return line if len(line) <= most else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def draw_pair(left: Axes, right: Axes, image: Bytes, original: DrawableMaps, slim: DrawableMaps) -> None:
    """Both models' maps of ``image`` into two cells."""
    for axes, maps in ((left, original), (right, slim)):
        show(axes, to_heat(image, _to_shares(maps.mass)))
        if maps.degenerate is not None:
            axes.text(
                0.5,
                0.5,
                maps.degenerate,
                transform=axes.transAxes,
                ha="center",
                va="center",
                fontsize=14,
                color="white",
                path_effects=[withStroke(linewidth=3, foreground=INK)],
            )
    _trace(left, original, ORIGINAL_COLOUR, "solid")
    _trace(right, original, ORIGINAL_COLOUR, "dashed")
    _trace(right, slim, SLIM_COLOUR, "solid")


def _trace(axes: Axes, maps: DrawableMaps, colour: str, style: str) -> None:
    """The outline of a region, and its map's centre."""
    if maps.degenerate is not None:
        return
    if ndimage.label(maps.region)[1] <= _PIECES:
        outline(axes, maps.region.astype(np.float64), colour, style)
    if maps.centre is not None:
        row, column = maps.centre
        marked: dict[str, Any] = {"marker": "+", "markersize": 13, "linestyle": "none", "clip_on": True}
        axes.plot([column], [row], color=INK, markeredgewidth=4.5, alpha=0.6, **marked)
        axes.plot([column], [row], color=colour, markeredgewidth=2.2, **marked)


def _draw_uncertainty(cells: Sequence[Axes], image: Bytes, original: DrawableMaps, slim: DrawableMaps) -> None:
    """Uncertainties of both models on one scale, so that they compare."""
    uncertainties = [maps.uncertainty for maps in (original, slim)]
    largest = max((float(values.max()) for values in uncertainties if values is not None), default=0.0)
    for axes, values in zip(cells, uncertainties, strict=False):
        if values is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", fontsize=12, color=INK)
        else:
            show(axes, to_heat(image, values / largest if largest else values, UNCERTAINTY_COLOURS))


def _to_shares(mass: Maps) -> Maps:
    full = float(np.percentile(mass, _CLIP)) or float(mass.max())
    return mass / full if full > 0 else mass


def _add_key(figure: Figure, uncertain: bool, wrong: bool = False) -> None:
    width, height = figure.get_size_inches()
    y = 0.52 / height
    heat_key(figure, (0.3 / width, y, 1.9 / width, 0.2 / height), ["0", "0.5", "1"])
    figure.text(0.3 / width, 0.08 / height, "share of the map's 99th percentile", fontsize=11.5, color=INK)
    left = 3.2
    if uncertain:
        place = ((left + 0.3) / width, y, 1.9 / width, 0.2 / height)
        heat_key(figure, place, ["0", "0.5", "1"], UNCERTAINTY_COLOURS)
        figure.text((left + 0.3) / width, 0.08 / height, "std, share of the row's maximum", fontsize=11.5, color=INK)
        left += 3.2
    labels = ("original", "original, on slim", "slim")
    mark = (1 - 0.25 / width, 0.4 / height) if wrong else None
    outline_key(figure, labels, ((left + 0.1) / width, 0.3 / height), wrong=mark, marker="+")
    meaning = f"line: half of the map's mass, where in {_PIECES} pieces or fewer; +: its centre"
    figure.text((left + 0.2) / width, 0.08 / height, meaning, fontsize=11.5, color=INK)
