"""The images that models are timed on: of a folder, of a run, of an array, or drawn."""

from __future__ import annotations

import os
import sys
import tokenize
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.data import open_splits
from slimsight.compress.data.decode import SUFFIXES, Encoded, decode, error_text, is_image
from slimsight.compress.errors import DataError
from slimsight.compress.files.untrusted import open_limited
from slimsight.compress.progress import SILENT, Progress

_NO_ARRAY = (
    ValueError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)

MOST = 512
"""Images that are used at most: the dynamic variant's time depends on the image, so one is not enough."""


@dataclass(frozen=True)
class Images:
    """``pixels`` (N, 3, H, W), uint8 or float in [0, 1]; ``source`` says where they come from."""

    pixels: NDArray[Any]
    source: str


def open_images(
    place: Path | None, run: Path | None, size: tuple[int, int] | None, *, seed: int, progress: Progress = SILENT
) -> Images:
    """Images for models that take ``size`` (H, W), None: any.

    Args:
        place: a folder of images (centre squares are scaled to the size), or a ``.npy`` file.
        run: without ``place``: the validation images of this run.
        seed: without either: pixels drawn uniformly, which every network takes and none has seen.

    Raises:
        DataError: no images, or images that the models cannot take.
    """
    if place is not None and place.suffix == ".npy":
        return check_images(_array(place), size, str(place))
    if place is not None:
        return check_images(_folder(place, size), size, str(place))
    if run is not None:
        return check_images(_of_run(run, progress), size, f"validation images of {run.name}")
    if size is None:
        raise DataError("the models take images of any size: say which with --images FOLDER (or a .npy file)")
    drawn = np.random.default_rng(seed).integers(0, 256, (64, 3, *size), dtype=np.uint8)
    return check_images(drawn, size, "drawn at random")


def check_images(pixels: NDArray[Any], size: tuple[int, int] | None, source: str) -> Images:
    """``pixels`` if models that take ``size`` can be timed on them.

    Raises:
        DataError: another shape, size or layout, no numbers between 0 and 1, or none at all.
    """
    shown = f"the images of {source} are {pixels.dtype} {pixels.shape}"
    if pixels.ndim != 4 or len(pixels) == 0:
        raise DataError(f"{shown}: give one image or more as (N, 3, H, W)")
    if pixels.shape[1] != 3:
        last = ", with channels first" if pixels.shape[3] == 3 else ""
        raise DataError(f"{shown}: give them as (N, 3, H, W){last}")
    if size is not None and pixels.shape[2:] != size:
        raise DataError(f"{shown}: the models take {size[0]} x {size[1]} pixels, give images of that size")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(f"{shown}: give uint8 (0 to 255) or floating point (0 to 1)")
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise DataError(f"{shown} with values that are NaN or infinite: replace those images")
        if pixels.min() < 0 or pixels.max() > 1:
            raise DataError(
                f"{shown} from {pixels.min():.3g} to {pixels.max():.3g}: give floating point from 0 to 1, or uint8"
            )
    return Images(pixels[:MOST], source)


def _array(place: Path) -> NDArray[Any]:
    try:
        with open_limited(place, sys.maxsize):  # a pipe would be waited for
            found = np.load(place, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"there is no {place}: give a folder of images or a .npy file") from None
    except _NO_ARRAY as error:
        raise DataError(
            f"{place} is no array that numpy reads ({error_text(error)}): save it again with numpy.save"
        ) from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{place} holds several arrays: give one, saved with numpy.save")
    return np.asarray(found[:MOST]) if found.ndim else np.asarray(found)


def _folder(place: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise DataError(f"{place} {what}: give a folder of images or a .npy file")
    found = sorted(Path(folder) / name for folder, _, names in os.walk(place) for name in names if is_image(name))
    if not found:
        raise DataError(f"{place} holds no images ({', '.join(sorted(SUFFIXES))}): give a folder that does")
    if size is not None and size[0] != size[1]:
        raise DataError(
            f"the models take {size[0]} x {size[1]} pixels: images of a folder are scaled to squares, give a .npy file"
        )
    chosen = found[:: max(1, len(found) // MOST)][:MOST]  # spread over the class folders
    items = (Encoded("bench", path.relative_to(place).as_posix(), path, str(path)) for path in chosen)
    return np.stack([item.image for item in decode(items, resize=None if size is None else size[0])])


def _of_run(run: Path, progress: Progress) -> NDArray[np.uint8]:
    from ..run.session import default_cache
    from ..run_dir import read_run
    from ..settings.recipe import load_recipe

    recipe = load_recipe(read_run(run).recipe)
    images = open_splits(recipe.data, cache_dir=default_cache(), seed=recipe.seed, progress=progress).val.images
    spread = np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(np.int64)
    return np.asarray(images[spread])
