"""Image sets: images with labels, in memory, memory-mapped or decoded on access; subsets are views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .partition import stratified_rows

RowIndex = SupportsIndex | slice | NDArray[Any]


class ImageArray(Protocol):
    """Protocol: the array interface that ``Rows`` reads from (an array, or files decoded on access)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Images at an array of positions, or one."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """A lazy view: rows ``order`` of an array or of image files, read on access; indexed like an array."""

    pool: NDArray[np.uint8] | ImageArray
    order: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.order), *self.pool.shape[1:]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return self.pool.dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: RowIndex) -> NDArray[np.uint8]:
        """One image ``(3, H, W)`` for a number; ``(n, 3, H, W)`` for a slice, a mask or an index array."""
        rows: NDArray[np.uint8] = self.pool[self.order[index]]
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows, read into memory (NumPy's conversion protocol)."""
        if copy is False:
            raise ValueError("rows of a memory map cannot become an array without a copy")
        rows: NDArray[np.uint8] = self.pool[self.order]
        return rows if dtype is None else rows.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images ``(N, 3, H, W)`` uint8, their labels ``(N,)`` int64, and the class names those labels index.

    ``images`` of a subset are ``Rows``: nothing is read until they are indexed.
    """

    images: NDArray[np.uint8] | Rows
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.images.shape) == 4, "images are (N, 3, H, W)"
        assert len(self.images) == len(self.labels), "one label per image"
        assert self.images.dtype == np.uint8, "images are raw bytes"

    def __len__(self) -> int:
        return len(self.labels)

    def relabelled(self, labels: NDArray[np.int64], classes: tuple[str, ...]) -> ImageSet:
        """The same images with ``labels`` (N,) into ``classes``."""
        return ImageSet(self.images, labels, classes)

    def subset(self, indices: NDArray[np.integer[Any]] | Sequence[int]) -> ImageSet:
        """The images at ``indices``, in that order, as a view."""
        chosen = np.asarray(indices, dtype=np.int64)
        if isinstance(self.images, Rows):
            rows = Rows(self.images.pool, self.images.order[chosen])
        else:
            rows = Rows(self.images, np.arange(len(self.images), dtype=np.int64)[chosen])
        return ImageSet(rows, self.labels[chosen], self.classes)


def image_count(wanted: int | float | None, total: int) -> int:
    """Number of images that ``wanted``, a number (int) or a share (float below 1), selects of ``total``; None: all."""
    if wanted is None:
        return total
    return min(round(wanted * total) if isinstance(wanted, float) else wanted, total)


def sample_rows(labels: NDArray[np.int64], wanted: int | float | None, *, seed: int) -> NDArray[np.int64]:
    """Sorted positions of a random sample: a number of images, or a share of every class; None: all images.

    Args:
        labels: (N,) of all images.
    """
    if wanted is None or wanted >= len(labels):
        return np.arange(len(labels))
    if isinstance(wanted, float):
        return stratified_rows(labels, wanted, seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(order[:wanted])
