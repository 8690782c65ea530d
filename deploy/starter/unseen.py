"""The images that preprocessing is decided on: those that a run will validate with, never the test images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimsight.compress.data import Preprocessing, Rows
from slimsight.compress.data.decode import DECODE_ERRORS, DECODE_THREADS, error_text, open_image, to_bytes
from slimsight.compress.errors import DataError
from slimsight.compress.files.untrusted import printable

MOST_DECIDED_ON: Final = 256
"""Images that a choice is decided on at most: several forward passes of each."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class UnseenImages:
    """A sample of the validation images with their labels (N,), in an order that mixes the classes.

    Args:
        files: of the images; or ``arrays`` (N, 3, side, side), where images come decoded and have one size.
        learned: whether weights that come with these images may have learned them: they were held out of the training
            images for this run alone.
        words: which images these are.
    """

    labels: NDArray[np.int64]
    learned: bool
    words: str
    files: tuple[Path, ...] = ()
    arrays: Pixels | None = None

    @classmethod
    def of_files(cls, files: Sequence[tuple[Path, int]], *, learned: bool, where: str) -> UnseenImages:
        """A sample, spread over the classes, of files with labels; ``where``: what they are called."""
        rows = _mixed_sample(len(files))
        chosen = [files[row] for row in rows]
        labels = np.array([label for _, label in chosen], dtype=np.int64)
        return cls(labels, learned, _words(len(chosen), len(files), where), tuple(file for file, _ in chosen))

    @classmethod
    def of_arrays(cls, images: Pixels | Rows, labels: NDArray[np.int64], *, learned: bool, where: str) -> UnseenImages:
        """A sample, spread over the classes, of decoded images (N, 3, side, side)."""
        rows = _mixed_sample(len(labels))
        arrays = np.asarray(images[rows])
        return cls(np.asarray(labels[rows]), learned, _words(len(rows), len(labels), where), arrays=arrays)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, first: int, last: int, wanted: Sequence[Preprocessing]) -> list[Pixels]:
        """Images ``first`` to ``last`` (exclusive) as (n, 3, side, side), one array for each way; decoded once.

        Raises:
            DataError: a file cannot be read; it is named.
        """

        def read_one(row: int) -> list[Pixels]:
            if self.arrays is not None:
                image = Image.fromarray(np.ascontiguousarray(self.arrays[row].transpose(1, 2, 0)))
                return [to_bytes(image, made) for made in wanted]
            return _read_file(self.files[row], wanted)

        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
            images = list(pool.map(read_one, range(first, last)))
        return [np.stack(made) for made in zip(*images, strict=True)]


def _mixed_sample(count: int) -> NDArray[np.int64]:
    """Positions of at most ``MOST_DECIDED_ON`` of ``count`` images, evenly spaced, in a fixed random order."""
    spaced = np.linspace(0, count - 1, min(MOST_DECIDED_ON, count)).round().astype(np.int64)
    return np.random.default_rng(0).permutation(spaced)


def _words(chosen: int, count: int, where: str) -> str:
    return f"{chosen} of the {count:,} images {where}" if chosen < count else f"the {count:,} images {where}"


def _read_file(path: Path, wanted: Sequence[Preprocessing]) -> list[Pixels]:
    try:
        with open_image(path) as image:
            return [to_bytes(image, made) for made in wanted]
    except DECODE_ERRORS as error:
        where = printable(str(path), 500)
        raise DataError(
            f"{where} is not an image that can be read ({error_text(error)}); replace or remove it"
        ) from error
