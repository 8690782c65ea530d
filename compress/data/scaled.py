"""Windows (crops) of image files, decoded straight to the output size; JPEGs are downscaled while decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from ..config import Interpolation
from ..errors import BrokenImage, DataError
from ..files.untrusted import printable
from .decode import DECODE_ERRORS, error_text, open_image, refuse_mode
from .preprocessing import RESAMPLING, Window

Pixels = NDArray[np.uint8]
_RATIOS = math.log(3 / 4), math.log(4 / 3)
_TRIES = 10
DRAWS = 2 * _TRIES + 4
"""Random numbers reserved for one image: two for each of ``_TRIES`` window sizes, then its position, shift and flip."""


def random_window(width: int, height: int, scale: tuple[float, float], draws: NDArray[np.float64]) -> Window:
    """A window of random area and aspect ratio (3/4 to 4/3): torchvision's RandomResizedCrop.

    Szegedy et al. 2015, section 6.

    Args:
        scale: range of its share of the area.
        draws: (DRAWS,) uniform in [0, 1).
    """
    across, down = draws[2 * _TRIES], draws[2 * _TRIES + 1]
    for trial in range(_TRIES):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * draws[2 * trial])
        ratio = math.exp(_RATIOS[0] + (_RATIOS[1] - _RATIOS[0]) * draws[2 * trial + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Window(int(across * (width - w + 1)), int(down * (height - h + 1)), w, h)
    # No draw fits: the largest centred window of an allowed aspect ratio.
    w = min(width, round(height * math.exp(_RATIOS[1])))
    h = min(height, round(width / math.exp(_RATIOS[0])))
    return Window((width - w) // 2, (height - h) // 2, w, h)


def read_scaled(
    path: Path | str, side: int, window: Callable[[int, int], Window], interpolation: Interpolation = "bilinear"
) -> Pixels:
    """The crop ``window(width, height)`` of an image file, scaled to ``(side, side, 3)`` RGB.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the window then still has at least ``side`` pixels; not for
    ``nearest``, which takes single pixels of the file.

    Raises:
        DataError: the file cannot be read as an image; it is named.
    """
    try:
        with open_image(Path(path)) as image:
            refuse_mode(image)
            width, height = image.size
            part = window(width, height)
            shrink = 1
            while interpolation != "nearest" and shrink < 8 and min(part.width, part.height) >= 2 * shrink * side:
                shrink *= 2
            if shrink > 1:
                image.draft(None, (width // shrink, height // shrink))
            across, down = image.size[0] / width, image.size[1] / height
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            box = part.box(across, down, image.size)
            return np.asarray(rgb.resize((side, side), RESAMPLING[interpolation], box=box))
    except FileNotFoundError as error:
        raise DataError(f"{_name(path)} is gone; put it back, or run again: the folder is then listed anew") from error
    except UnidentifiedImageError as error:
        raise BrokenImage(f"{_name(path)} is not an image that can be read; {_REMEDY}") from error
    except DECODE_ERRORS as error:
        raise BrokenImage(f"{_name(path)} cannot be decoded ({error_text(error)}); {_REMEDY}") from error


_REMEDY = "replace it, or name it in a file for data.skip to leave it out"


def _name(path: Path | str) -> str:
    return printable(str(path), 500)
