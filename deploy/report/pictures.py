"""Pictures of a report: what the model looks at before and after, and which channels it kept.

Figures are drawn on their own canvas: pyplot and its global state are never touched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from compress.files import atomic_path

_DPI: Final = 100
_WIDTH: Final = 16.0  # inches: 1600 px
_HEAT: Final = "inferno"
_HEAT_STRENGTH: Final = 0.75
_SLIM_COLOUR: Final = "#00e5ff"
_ORIGINAL_COLOUR: Final = "white"
_KEPT_COLOUR: Final = "#2a6f97"
_REMOVED_COLOUR: Final = "#dde3e8"
_FROZEN_COLOUR: Final = "#9aa3ab"
_WRONG_COLOUR: Final = "#c1121f"
_WRONG_MARK: Final = "\N{MULTIPLICATION X} "
_INK: Final = "#22272b"
_CHARACTER: Final = 0.1  # inches a character of a group's name takes at most, on average

Bytes = NDArray[np.uint8]
Maps = NDArray[np.floating[Any]]
ChannelBar = tuple[str, int, int, str | None]


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as part:
        figure.savefig(part, dpi=_DPI, format="png", facecolor="white")


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def _to_heat(image: Bytes, values: Maps) -> NDArray[np.float64]:
    """The image in grey under a heat map: (3,H,W) uint8 and (H,W) in [0,1] -> (H,W,3) in [0,1].

    Heat covers more the larger p is, so that what the model ignores stays a plain grey image.
    """
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    grey = np.tensordot(weights, image.astype(np.float64) / 255, axes=1)[..., None]
    p = np.clip(values.astype(np.float64), 0, 1)
    cover = _HEAT_STRENGTH * p[..., None]
    heat: NDArray[np.float64] = (1 - cover) * grey + cover * colormaps[_HEAT](p)[..., :3]
    return heat


def _show(axes: Axes, picture: NDArray[Any]) -> None:
    small = picture.shape[0] < 64  # pixels of a CIFAR image stay square; a photograph is smoothed
    axes.imshow(picture, interpolation="nearest" if small else "auto")
    axes.set_axis_off()


def _outline(axes: Axes, values: Maps, colour: str, style: str) -> None:
    if values.min() < 0.5 < values.max():  # otherwise there is no such line to draw
        line = axes.contour(values, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.8)
        line.set_path_effects([withStroke(linewidth=3.2, foreground=_INK, alpha=0.6)])  # seen on white too


def _draw_row(cells: Sequence[Axes], image: Bytes, original: Maps, slim: Maps, masked: Bytes) -> None:
    _show(cells[0], image.transpose(1, 2, 0))
    _show(cells[1], _to_heat(image, original))
    _outline(cells[1], original, _ORIGINAL_COLOUR, "solid")
    _show(cells[2], _to_heat(image, slim))
    _outline(cells[2], original, _ORIGINAL_COLOUR, "dashed")
    _outline(cells[2], slim, _SLIM_COLOUR, "solid")
    _show(cells[3], masked.transpose(1, 2, 0))


def _head(cells: Sequence[Axes], names: Sequence[str], y: float) -> None:
    style: dict[str, Any] = {
        "ha": "center",
        "va": "bottom",
        "fontsize": 14,
        "fontweight": "bold",
        "color": _INK,
    }
    for axes, name in zip(cells, names, strict=True):
        axes.text(0.5, y, name, transform=axes.transAxes, **style)


def draw_saliency(
    path: Path,
    images: Bytes,
    original_maps: Maps,
    slim_maps: Maps,
    masked: Bytes,
    titles: Sequence[str],
    *,
    wrong: Sequence[bool] | None = None,
    masked_title: str = "what remains",
    blocks: int = 2,
) -> None:
    """A row per image: image, map of the original, map of the slim model, masked image; ``blocks`` abreast.

    Shapes: images and masked (N,3,H,W) uint8, maps (N,H,W) in [0,1], N titles (predicted classes). ``wrong``
    marks predictions that miss the label. The slim model's map carries the original's outline too.
    """
    count = len(images)
    assert count > 0
    assert len(original_maps) == len(slim_maps) == len(masked) == len(titles) == count
    wrong = [False] * count if wrong is None else wrong
    blocks = min(blocks, count)
    rows = -(-count // blocks)
    height, width = images.shape[2:]
    widths = ([1.0] * 4 + [0.22]) * blocks
    cell = (_WIDTH - 0.4) / sum(widths[:-1]) * 0.97 * height / width
    top, bottom = 0.5, 0.75
    figure_height = rows * (cell + 0.36) + top + bottom
    figure = _figure(figure_height)
    grid = figure.add_gridspec(
        rows,
        len(widths) - 1,
        width_ratios=widths[:-1],
        left=0.2 / _WIDTH,
        right=1 - 0.2 / _WIDTH,
        top=1 - top / figure_height - 0.3 / figure_height,
        bottom=bottom / figure_height,
        wspace=0.04,
        hspace=0.36 / cell,
    )
    for index in range(count):
        block, row = divmod(index, rows)
        cells = [figure.add_subplot(grid[row, block * 5 + column]) for column in range(4)]
        _draw_row(cells, images[index], original_maps[index], slim_maps[index], masked[index])
        colour, mark = (_WRONG_COLOUR, _WRONG_MARK) if wrong[index] else (_INK, "")
        cells[0].set_title(mark + titles[index], fontsize=13, color=colour, loc="left", pad=4)
        if row == 0:
            _head(cells, ("image", "original", "slim", masked_title), 1 + 0.3 / cell)
    _add_key(figure, figure_height, any(wrong))
    _save(figure, path)


def _add_key(figure: Figure, height: float, with_wrong: bool) -> None:
    ramp = np.linspace(0, 1, 256)[None, :]
    axes = figure.add_axes((0.2 / _WIDTH + 0.02, 0.36 / height, 0.16, 0.2 / height))
    axes.imshow(_to_heat(np.full((3, 1, 256), 128, np.uint8), ramp), aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["p = 0", "0.5", "1"], fontsize=12, color=_INK)
    axes.tick_params(length=3)
    lines: list[Line2D | Patch] = [
        Line2D([], [], color=_ORIGINAL_COLOUR, linewidth=2, label="original, p = 0.5"),
        Line2D([], [], color=_ORIGINAL_COLOUR, linewidth=2, linestyle="dashed", label="original, shown on slim"),
        Line2D([], [], color=_SLIM_COLOUR, linewidth=2, label="slim, p = 0.5"),
    ]
    legend = figure.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=(0.21, 0.14 / height),
        ncols=3,
        fontsize=12,
        facecolor="#6b7278",
        framealpha=1,
        edgecolor="none",
        labelcolor="white",
    )
    legend.set_in_layout(False)
    if with_wrong:
        figure.text(
            0.985,
            0.37 / height,
            f"{_WRONG_MARK}wrong prediction",
            ha="right",
            fontsize=12.5,
            color=_WRONG_COLOUR,
        )


def draw_channels(path: Path, groups: Sequence[ChannelBar]) -> None:
    """A bar per channel group (name, total, kept, why it is frozen or None): the share kept, with numbers.

    Shares, not counts: in a network of 16 to 1,280 channels the small groups would vanish.
    """
    assert groups
    columns = 1 if len(groups) <= 24 else 2
    rows = -(-len(groups) // columns)
    reasons = list(dict.fromkeys(reason for _, _, _, reason in groups if reason is not None))
    notes = [
        line
        for number, reason in enumerate(reasons, 1)
        for line in textwrap.wrap(f"({number}) frozen: {reason}", 170, subsequent_indent="      ")
    ]
    top, bottom = 0.75, 0.75 + 0.24 * len(notes)
    height = rows * 0.3 + top + bottom
    figure = _figure(height)
    longest = max(len(name) for name, *_ in groups)
    label = min(_CHARACTER * longest + 0.25, 0.5 * _WIDTH / columns)
    for column in range(columns):
        part = groups[column * rows : (column + 1) * rows]
        left = column * _WIDTH / columns + label
        width = _WIDTH / columns - label - 1.95
        axes = figure.add_axes((left / _WIDTH, bottom / height, width / _WIDTH, rows * 0.3 / height))
        _draw_bars(axes, part, rows, reasons, int(label / _CHARACTER) - 2)
    handles = [Patch(color=_KEPT_COLOUR, label="kept"), Patch(color=_REMOVED_COLOUR, label="removed")]
    if reasons:
        handles.append(Patch(facecolor=_FROZEN_COLOUR, edgecolor="white", hatch="////", label="frozen: keeps all"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - 0.1 / _WIDTH, 1 - 0.1 / height),
        ncols=3,
        fontsize=13,
        frameon=False,
        labelcolor=_INK,
    )
    title = f"Channels kept in {len(groups)} groups" if len(groups) > 1 else "Channels kept"
    figure.text(0.15 / _WIDTH, 1 - 0.4 / height, title, fontsize=16, fontweight="bold", color=_INK)
    for number, note in enumerate(reversed(notes)):
        figure.text(0.15 / _WIDTH, (0.15 + 0.24 * number) / height, note, fontsize=11.5, color=_INK)
    _save(figure, path)


def _shorten(name: str, length: int) -> str:
    """The name with its middle left out: its start and its end are what tells groups apart."""
    if len(name) <= length:
        return name
    head = length // 3
    return f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - (length - head - 1) :]}"


def _draw_bars(axes: Axes, groups: Sequence[ChannelBar], rows: int, reasons: list[str], length: int) -> None:
    for y, (_, total, kept, reason) in enumerate(groups):
        share = 100 * kept / total
        axes.barh(y, 100, height=0.72, color=_REMOVED_COLOUR)
        if reason is None:
            axes.barh(y, share, height=0.72, color=_KEPT_COLOUR)
        else:
            axes.barh(y, share, height=0.72, color=_FROZEN_COLOUR, hatch="////", edgecolor="white", linewidth=0)
        note = "" if reason is None else f"  ({reasons.index(reason) + 1})"
        axes.annotate(
            f"{kept:,} of {total:,}{note}",
            (100, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=12,
            color=_INK,
        )
    axes.set_yticks(range(len(groups)), [_shorten(name, length) for name, *_ in groups], fontsize=12, color=_INK)
    axes.set_ylim(rows - 0.5, -0.5)  # the first group on top, in every column at the same height
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"], fontsize=12, color=_INK)
    axes.tick_params(axis="y", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
