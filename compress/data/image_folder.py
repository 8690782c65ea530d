"""Images of a folder and of the folders in it: their files in order, decoded into one array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .decode import SUFFIXES, Encoded, decode, is_image
from .preprocessing import Preprocessing


def find_images(root: Path, taken: str = "a folder of images") -> list[Path]:
    """The image files below ``root``, sorted by path; ``taken``: what messages say to give.

    Raises:
        DataError: it is no folder, or has none.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}: give {taken}")
    paths = sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names if is_image(name))
    if not paths:
        raise DataError(f"{root} contains no images ({', '.join(sorted(SUFFIXES))}): give a folder that does")
    return paths


def read_images(root: Path, paths: Sequence[Path], preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    """(N, 3, H, W) the images at ``paths`` below ``root``; without ``preprocessing`` they must be of one size.

    Raises:
        DataError: an image is broken, or they differ in size.
    """
    items = (Encoded("images", path.relative_to(root).as_posix(), path, str(path)) for path in paths)
    return np.stack([item.image for item in decode(items, preprocessing)])
