"""Drawing primitives of a report's pictures: figures, colours, heat maps over images, outlines, legends.

Figures are drawn on their own canvas: pyplot and its global state are never touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from slimsight.compress.data.decode import DECODE_ERRORS, MOST_BYTES
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.atomic import atomic_path
from slimsight.compress.files.untrusted import escape_hidden, open_limited

WIDTH: Final = 16.0  # inches: 1600 px
HEAT: Final = "inferno"
SLIM_COLOUR: Final = "#00e5ff"
ORIGINAL_COLOUR: Final = "white"
WRONG_COLOUR: Final = "#c1121f"
WRONG_MARK: Final = "\N{MULTIPLICATION X} "
INK: Final = "#22272b"
LEGEND_GROUND: Final = "#6b7278"  # white and cyan lines are seen on it
PNG_METADATA: Final = {"Software": "slimsight"}
"""In every picture that is drawn, so that it is known as one."""
_DPI: Final = 100
_HEAT_STRENGTH: Final = 0.75
_STRIP_CELL: Final = 150  # pixels of a picture's side: about as large as it is shown
_STRIP_GAP: Final = 6
_QUALITY: Final = 82
_EFFORT: Final = 4  # the encoder's 6 takes 30 times as long on a picture with transparency, for as many bytes

Bytes = NDArray[np.uint8]
Maps = NDArray[np.floating[Any]]


def save(figure: Figure, path: Path, *, dpi: int = _DPI) -> None:
    """Write a PNG atomically; what texts hold is drawn as it is."""
    _draw_plainly(figure)
    with atomic_path(path, durable=False) as part:
        figure.savefig(part, dpi=dpi, format="png", facecolor="white", metadata=PNG_METADATA)


def _draw_plainly(figure: Figure) -> None:
    """Names of classes, files and layers are no formulas ($), and have no hidden characters."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        if (shown := escape_hidden(text.get_text())) != text.get_text():
            text.set_text(shown)


def refuse_foreign_pictures(paths: Iterable[Path]) -> None:
    """Refuse to draw into files that slimsight did not draw: their names were not given, but made here.

    Raises:
        ConfigError: names the first.
    """
    for path in paths:
        if path.exists() and not _drawn_here(path):
            raise ConfigError(
                f"{path} exists, and slimsight did not draw it: it is kept; move it away, or choose another folder "
                "with --out"
            )


def _drawn_here(path: Path) -> bool:
    try:
        with open_limited(path, MOST_BYTES) as file, Image.open(file, formats=("PNG",)) as picture:
            return picture.info.get("Software") == PNG_METADATA["Software"]
    except DECODE_ERRORS:
        return False


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; inches of a hundred pixels."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_heat(image: Bytes, values: Maps, colours: str = HEAT) -> NDArray[np.float64]:
    """The image in grey under a heat map: (3,H,W) uint8 and (H,W) in [0,1] -> (H,W,3) in [0,1].

    Heat covers more the larger p is, so that what the model ignores stays a plain grey image.
    """
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    grey = np.tensordot(weights, image.astype(np.float64) / 255, axes=1)[..., None]
    p = np.clip(values.astype(np.float64), 0, 1)
    cover = _HEAT_STRENGTH * p[..., None]
    heat: NDArray[np.float64] = (1 - cover) * grey + cover * colormaps[colours](p)[..., :3]
    return heat


def show(axes: Axes, picture: NDArray[Any]) -> None:
    """A picture (H, W, 3) without axes."""
    small = picture.shape[0] < 64  # pixels of a CIFAR image stay square; a photograph is smoothed
    axes.imshow(picture, interpolation="nearest" if small else "auto")
    axes.set_axis_off()


def outline(axes: Axes, values: Maps, colour: str, style: str) -> None:
    """The line at 0.5 of values (H, W), where there is one."""
    if values.min() < 0.5 < values.max():  # otherwise there is no such line to draw
        line = axes.contour(values, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.8)
        line.set_path_effects([withStroke(linewidth=3.2, foreground=INK, alpha=0.6)])  # seen on white too


def head(cells: Sequence[Axes], names: Sequence[str], y: float) -> None:
    """Column names above their first cells, ``y`` in heights of a cell."""
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 14, "fontweight": "bold", "color": INK}
    for axes, name in zip(cells, names, strict=True):
        axes.text(0.5, y, name, transform=axes.transAxes, **style)


def heat_key(figure: Figure, box: tuple[float, float, float, float], ticks: Sequence[str], colours: str = HEAT) -> None:
    """A colour bar of heat over mid grey; ``ticks``: texts at 0, 0.5 and 1."""
    axes = figure.add_axes(box)
    ramp = np.linspace(0, 1, 256)[None, :]
    picture = to_heat(np.full((3, 1, 256), 128, np.uint8), ramp, colours)
    axes.imshow(picture, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ticks, fontsize=12, color=INK)
    axes.tick_params(length=3)


def outline_key(
    figure: Figure,
    labels: Sequence[str],
    anchor: tuple[float, float],
    *,
    wrong: tuple[float, float] | None,
    marker: str = "",
) -> None:
    """Legend of the outlines: the original's, the same on the slim model's map (dashed), the slim model's own.

    ``marker``: of the centres; ``wrong``: where the mark of wrong predictions is explained, if it is.
    """
    original, on_slim, slim = labels
    lines = [
        Line2D([], [], color=ORIGINAL_COLOUR, linewidth=2, marker=marker, markersize=10, label=original),
        Line2D([], [], color=ORIGINAL_COLOUR, linewidth=2, linestyle="dashed", label=on_slim),
        Line2D([], [], color=SLIM_COLOUR, linewidth=2, marker=marker, markersize=10, label=slim),
    ]
    figure.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=anchor,
        ncols=3,
        fontsize=12,
        facecolor=LEGEND_GROUND,
        framealpha=1,
        edgecolor="none",
        labelcolor="white",
    )
    if wrong is not None:
        text = f"{WRONG_MARK}wrong prediction"
        figure.text(*wrong, text, ha="right", fontsize=12.5, color=WRONG_COLOUR)


def draw_strip(count: int, shape: tuple[int, int], draw: Callable[[Sequence[Axes]], None]) -> bytes:
    """WebP of ``count`` cells abreast on a transparent ground; ``draw`` fills them. ``shape``: of an image, (H, W)."""
    tall = round(_STRIP_CELL * shape[0] / shape[1])
    width = count * _STRIP_CELL + (count - 1) * _STRIP_GAP
    figure = Figure(figsize=(width / _DPI, tall / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    draw([figure.add_axes((k * (_STRIP_CELL + _STRIP_GAP) / width, 0, _STRIP_CELL / width, 1)) for k in range(count)])
    png, webp = io.BytesIO(), io.BytesIO()
    figure.savefig(png, dpi=_DPI, format="png")
    Image.open(png).save(webp, "WEBP", quality=_QUALITY, method=_EFFORT)
    return webp.getvalue()
