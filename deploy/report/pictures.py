"""Pictures of a report: saliency maps before and after pruning, and the channels kept."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slimsight.compress.files.untrusted import printable

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
from .units import shortened

_KEPT_COLOUR: Final = "#2a6f97"
_REMOVED_COLOUR: Final = "#dde3e8"
_FROZEN_COLOUR: Final = "#9aa3ab"
_CHARACTER: Final = 0.1  # inches a character of a group's name takes at most, on average

ChannelBar = tuple[str, int, int, str | None]

_TITLE: Final = 40  # characters of a class above its image


def draw_row(cells: Sequence[Axes], image: Bytes, original: Maps, slim: Maps, masked: Bytes) -> None:
    """Image, map of the original, map of the slim model and what remains of the image, into four cells."""
    show(cells[0], image.transpose(1, 2, 0))
    show(cells[1], to_heat(image, original))
    outline(cells[1], original, ORIGINAL_COLOUR, "solid")
    show(cells[2], to_heat(image, slim))
    outline(cells[2], original, ORIGINAL_COLOUR, "dashed")
    outline(cells[2], slim, SLIM_COLOUR, "solid")
    show(cells[3], masked.transpose(1, 2, 0))


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
    cell = (WIDTH - 0.4) / sum(widths[:-1]) * 0.97 * height / width
    top, bottom = 0.5, 0.75
    figure_height = rows * (cell + 0.36) + top + bottom
    figure = new_figure(figure_height)
    grid = figure.add_gridspec(
        rows,
        len(widths) - 1,
        width_ratios=widths[:-1],
        left=0.2 / WIDTH,
        right=1 - 0.2 / WIDTH,
        top=1 - top / figure_height - 0.3 / figure_height,
        bottom=bottom / figure_height,
        wspace=0.04,
        hspace=0.36 / cell,
    )
    for index in range(count):
        block, row = divmod(index, rows)
        cells = [figure.add_subplot(grid[row, block * 5 + column]) for column in range(4)]
        draw_row(cells, images[index], original_maps[index], slim_maps[index], masked[index])
        colour, mark = (WRONG_COLOUR, WRONG_MARK) if wrong[index] else (INK, "")
        cells[0].set_title(mark + printable(titles[index], _TITLE), fontsize=13, color=colour, loc="left", pad=4)
        if row == 0:
            head(cells, ("image", "original", "slim", masked_title), 1 + 0.3 / cell)
    _add_key(figure, figure_height, any(wrong))
    save(figure, path)


def _add_key(figure: Figure, height: float, with_wrong: bool) -> None:
    heat_key(figure, (0.2 / WIDTH + 0.02, 0.36 / height, 0.16, 0.2 / height), ["p = 0", "0.5", "1"])
    labels = ("original, p = 0.5", "original, shown on slim", "slim, p = 0.5")
    outline_key(figure, labels, (0.21, 0.14 / height), wrong=(0.985, 0.37 / height) if with_wrong else None)


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
    figure = new_figure(height)
    longest = max(len(name) for name, *_ in groups)
    label = min(_CHARACTER * longest + 0.25, 0.5 * WIDTH / columns)
    for column in range(columns):
        part = groups[column * rows : (column + 1) * rows]
        left = column * WIDTH / columns + label
        width = WIDTH / columns - label - 1.95
        axes = figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, rows * 0.3 / height))
        _draw_bars(axes, part, rows, reasons, int(label / _CHARACTER) - 2)
    handles = [Patch(color=_KEPT_COLOUR, label="kept"), Patch(color=_REMOVED_COLOUR, label="removed")]
    if reasons:
        handles.append(Patch(facecolor=_FROZEN_COLOUR, edgecolor="white", hatch="////", label="frozen: keeps all"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.1 / height),
        ncols=3,
        fontsize=13,
        frameon=False,
        labelcolor=INK,
    )
    title = f"Channels kept in {len(groups)} groups" if len(groups) > 1 else "Channels kept"
    figure.text(0.15 / WIDTH, 1 - 0.4 / height, title, fontsize=16, fontweight="bold", color=INK)
    for number, note in enumerate(reversed(notes)):
        figure.text(0.15 / WIDTH, (0.15 + 0.24 * number) / height, note, fontsize=11.5, color=INK)
    save(figure, path)


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
            color=INK,
        )
    axes.set_yticks(range(len(groups)), [shortened(name, length) for name, *_ in groups], fontsize=12, color=INK)
    axes.set_ylim(rows - 0.5, -0.5)  # the first group on top, in every column at the same height
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"], fontsize=12, color=INK)
    axes.tick_params(axis="y", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
