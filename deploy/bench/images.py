"""The images that models are timed on: from a folder, a ``.npy`` file or a run, or random."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.data import Preprocessing, open_splits
from slimsight.compress.data.decode import error_text
from slimsight.compress.data.image_folder import find_images, read_images
from slimsight.compress.errors import DataError
from slimsight.compress.files.untrusted import open_limited
from slimsight.compress.progress import SILENT, Progress

_LOAD_ERRORS = (ValueError, EOFError, OSError, OverflowError, MemoryError, SyntaxError, TokenError, BadZipFile)

MAX_IMAGES = 512
"""Maximum number of images; one is not enough, as the dynamic model's time depends on the image."""


@dataclass(frozen=True)
class BenchImages:
    """``pixels`` (N, 3, H, W), uint8 or float in [0, 1]; ``source`` in words."""

    pixels: NDArray[Any]
    source: str


def open_bench_images(
    path: Path | None, run: Path | None, size: tuple[int, int] | None, *, seed: int, progress: Progress = SILENT
) -> BenchImages:
    """Images for models that take ``size`` (H, W), None: any.

    Args:
        path: a folder of images (centre squares are scaled to the size), or a ``.npy`` file.
        run: without ``path``: the validation images of this run.
        seed: without either: of uniformly random pixels.

    Raises:
        DataError: no images, or images that the models cannot take.
    """
    if path is not None:
        pixels = _load_npy(path) if path.suffix == ".npy" else _load_folder(path, size)
        return check_bench_images(pixels, size, str(path))
    if run is not None:
        return check_bench_images(_load_validation_images(run, progress), size, f"validation images of {run.name}")
    if size is None:
        raise DataError("the models take images of any size: say which with --images FOLDER (or a .npy file)")
    drawn = np.random.default_rng(seed).integers(0, 256, (64, 3, *size), dtype=np.uint8)
    return check_bench_images(drawn, size, "drawn at random")


def check_bench_images(pixels: NDArray[Any], size: tuple[int, int] | None, source: str) -> BenchImages:
    """``pixels`` as ``BenchImages``, checked for models that take ``size``.

    Raises:
        DataError: wrong shape, size, layout or type, values outside of 0 to 1, or no images.
    """
    given = f"the images of {source} are {pixels.dtype} {pixels.shape}"
    if pixels.ndim != 4 or len(pixels) == 0:
        raise DataError(f"{given}: give one image or more as (N, 3, H, W)")
    if pixels.shape[1] != 3:
        last = ", with channels first" if pixels.shape[3] == 3 else ""
        raise DataError(f"{given}: give them as (N, 3, H, W){last}")
    if size is not None and pixels.shape[2:] != size:
        raise DataError(f"{given}: the models take {size[0]} x {size[1]} pixels, give images of that size")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(f"{given}: give uint8 (0 to 255) or floating point (0 to 1)")
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise DataError(f"{given} with values that are NaN or infinite: replace those images")
        if pixels.min() < 0 or pixels.max() > 1:
            raise DataError(
                f"{given} from {pixels.min():.3g} to {pixels.max():.3g}: give floating point from 0 to 1, or uint8"
            )
    return BenchImages(pixels[:MAX_IMAGES], source)


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        with open_limited(path, sys.maxsize):  # np.load would wait for a pipe
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"there is no {path}: give a folder of images or a .npy file") from None
    except _LOAD_ERRORS as error:
        raise DataError(
            f"{path} is not an array that numpy can read ({error_text(error)}): save it again with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} contains several arrays: give one, saved with numpy.save")
    return np.asarray(array[:MAX_IMAGES]) if array.ndim else np.asarray(array)


def _load_folder(root: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    paths = find_images(root, "a folder of images or a .npy file")
    if size is not None and size[0] != size[1]:
        raise DataError(
            f"the models take {size[0]} x {size[1]} pixels: images of a folder are scaled to squares, give a .npy file"
        )
    chosen = paths[:: max(1, len(paths) // MAX_IMAGES)][:MAX_IMAGES]  # spread over the class folders
    return read_images(root, chosen, None if size is None else Preprocessing.square(size[0]))


def _load_validation_images(run: Path, progress: Progress) -> NDArray[np.uint8]:
    from ..run.session import writable_cache
    from ..run_dir import read_run
    from ..settings.recipe import load_recipe

    recipe = load_recipe(read_run(run).recipe)
    images = open_splits(recipe.data, cache_dir=writable_cache(), seed=recipe.seed, progress=progress).val.images
    spread = np.linspace(0, len(images) - 1, min(MAX_IMAGES, len(images))).round().astype(np.int64)
    return np.asarray(images[spread])
