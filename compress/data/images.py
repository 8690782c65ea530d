"""Image sets: images with labels, in memory, memory-mapped or decoded on access; subsets are views."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .partition import stratified_rows

DIGEST_BYTES = 16
_HASHED_AT_ONCE = 256

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

    ``digests``: gives the content (N, 16) of every image of the array or of the files that ``images`` are rows of;
    None: it is computed from the pixels.
    """

    images: NDArray[np.uint8] | Rows
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    digests: Callable[[], NDArray[np.uint8]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert len(self.images.shape) == 4, "images are (N, 3, H, W)"
        assert len(self.images) == len(self.labels), "one label per image"
        assert self.images.dtype == np.uint8, "images are raw bytes"

    def __len__(self) -> int:
        return len(self.labels)

    def relabelled(self, labels: NDArray[np.int64], classes: tuple[str, ...]) -> ImageSet:
        """The same images with ``labels`` (N,) into ``classes``."""
        return ImageSet(self.images, labels, classes, self.digests)

    def subset(self, indices: NDArray[np.integer[Any]] | Sequence[int]) -> ImageSet:
        """The images at ``indices``, in that order, as a view."""
        chosen = np.asarray(indices, dtype=np.int64)
        if isinstance(self.images, Rows):
            rows = Rows(self.images.pool, self.images.order[chosen])
        else:
            rows = Rows(self.images, np.arange(len(self.images), dtype=np.int64)[chosen])
        return ImageSet(rows, self.labels[chosen], self.classes, self.digests)

    def content(self) -> NDArray[np.uint8]:
        """(N, 16) a digest of each image: of its pixels, or of its file where images stay files."""
        if self.digests is not None:
            known = self.digests()
            return known[self.images.order] if isinstance(self.images, Rows) else known
        starts = range(0, len(self), _HASHED_AT_ONCE)
        return np.concatenate([pixel_digests(self.images[i : i + _HASHED_AT_ONCE]) for i in starts])


def pixel_digests(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 16) a digest of the pixels of each of ``images`` (n, 3, H, W)."""
    made = [hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in images]
    return np.frombuffer(b"".join(made), dtype=np.uint8).reshape(len(images), DIGEST_BYTES)


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
