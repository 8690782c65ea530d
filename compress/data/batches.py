"""Batches of an image set in memory or in a cache, and their sharding across processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..parallel.processes import ShardSlice, even_slice
from .augment import epoch_key, scale_window, uniform_draws
from .images import ImageSet

Sharding = Callable[[int, int], Sequence[slice]]
"""(number of a batch in its epoch, its size) -> the row slices to read, each of which becomes a batch."""


class Batch(NamedTuple):
    """Images ``(N, 3, H, W)`` float32 in [0, 1]; labels and positions in the image set ``(N,)`` int64.

    Images decoded on the fly come as uint8; ``training.to_device`` converts them to float32.
    ``part``: which rows of a larger batch these are; None: it is a complete batch.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    part: ShardSlice | None = None


def all_rows(number: int, size: int) -> Sequence[slice]:
    """Complete batches: no sharding."""
    del number
    return [slice(0, size)]


def shard_rows(rank: int, world: int, accumulate: int = 1) -> Sharding:
    """The rows of every batch that process ``rank`` of ``world`` learns on, in ``accumulate`` parts.

    A batch is first split into the parts, as in a single process, then each part across processes: batch statistics
    of a part do not depend on ``world``.
    """

    def slices(number: int, size: int) -> Sequence[slice]:
        del number
        parts = (even_slice(size, k, accumulate) for k in range(accumulate))
        shards = ((part.start, even_slice(part.stop - part.start, rank, world)) for part in parts)
        return [slice(start + rows.start, start + rows.stop) for start, rows in shards]

    return slices


def round_robin(rank: int, world: int) -> Sharding:
    """Complete batches dealt out in turn: results of an image do not depend on ``world``, to the bit."""
    return lambda number, size: [slice(0, size)] if number % world == rank else []


def shard_slices(number: int, size: int, sharding: Sharding) -> Iterator[ShardSlice]:
    """The slices of batch ``number`` (of ``size`` images) that ``sharding`` selects."""
    for rows in sharding(number, size):
        assert rows.start < rows.stop <= size, "recipes allow no batch with fewer images than processes"
        yield ShardSlice(rows.start, rows.stop, size)


class Batches:
    """Batches of an image set. Order and augmentation depend on ``seed`` and the epoch only.

    ``crop_padding``: zeros around the image, in pixels, before a random crop back to its size. Padding
    happens in raw image space, before any normalisation: zeros are black.
    ``crop_scale``: instead, random windows of this share of the area, from and to, scaled back to the images' size.
    ``flip``: mirror every image with probability 1/2.

    Raises:
        DataError: there are no images, or fewer than one batch with ``drop_last``.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        crop_padding: int = 0,
        crop_scale: tuple[float, float] | None = None,
        flip: bool = False,
        drop_last: bool = False,
    ) -> None:
        assert batch_size >= 1, "recipes allow a batch size of 1 or more"
        assert crop_padding >= 0, "recipes allow no negative padding"
        if len(images) < (batch_size if drop_last else 1):
            raise DataError(
                f"{len(images)} images do not fill one batch of {batch_size if drop_last else 1}; "
                "give more images or set a smaller batch_size"
            )
        self.images = images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.crop_padding = crop_padding if crop_scale is None else 0
        self.crop_scale = crop_scale
        self.flip = flip
        self.drop_last = drop_last

    @property
    def count(self) -> int:
        """Images per epoch."""
        return len(self) * self.batch_size if self.drop_last else len(self.images)

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """The batches of epoch ``k`` from number ``start`` on; the same ``k`` yields the same pixels, whatever was
        drawn before. Only the rows that ``sharding`` selects are read; the augmentation of an image does not depend on
        it."""
        random = epoch_generator(self.seed, k)
        total = len(self.images)
        order = torch.randperm(total, generator=random) if self.shuffle else torch.arange(total)
        # Drawn for all images at once, so that an image's augmentation does not depend on the batch size.
        corners = torch.randint(2 * self.crop_padding + 1, (total, 2), generator=random)
        mirrored = torch.rand(total, generator=random) < 0.5
        for number in range(start, len(self)):
            first = number * self.batch_size
            for part in shard_slices(number, min(self.batch_size, self.count - first), sharding):
                rows = slice(first + part.start, first + part.stop)
                indices = order[rows]
                images = self._read(indices)
                if self.crop_scale is not None:
                    images = scaled_windows(images, self.crop_scale, self.seed, k, first + part.start)
                if self.crop_padding:
                    images = crop(images, corners[rows], self.crop_padding)
                if self.flip:
                    images = torch.where(mirrored[rows, None, None, None], images.flip(3), images)
                labels = torch.from_numpy(self.images.labels[indices.numpy()])
                yield Batch(images.to(torch.float32).div_(255), labels, indices, None if part.whole else part)

    def _read(self, indices: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` uint8 at ``indices``; read in the order of the file, which is faster."""
        rows, inverse = np.unique(indices.numpy(), return_inverse=True)
        images = torch.from_numpy(self.images.images[rows])
        return images[torch.from_numpy(inverse)] if self.shuffle else images


def crop(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Crops of the images' own size from the zero-padded images.

    Args:
        images: ``(N, 3, H, W)``.
        corners: ``(N, 2)`` int64, row and column of each crop in the padded image, 0 to ``2 * padding``.
        padding: zeros on every side, pixels.
    """
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, 3, 2p + 1, 2p + 1, H, W), a view
    return windows[torch.arange(len(images)), :, corners[:, 0], corners[:, 1]]


def scaled_windows(images: Tensor, scale: tuple[float, float], seed: int, k: int, first: int) -> Tensor:
    """A random window of each image, scaled back to the images' size; what is drawn for an image depends on ``seed``,
    the epoch ``k`` and its place in it alone.

    Args:
        images: ``(N, 3, H, W)`` uint8.
        scale: share of the area that a window has, from and to (``random_window``).
        first: place of the first of them in the epoch's order.
    """
    key = epoch_key(seed, k)
    scaled = np.empty(images.shape, dtype=np.uint8)
    for row, image in enumerate(images.numpy()):
        scaled[row] = scale_window(image, scale, uniform_draws(key, first + row))
    return torch.from_numpy(scaled)


def epoch_generator(seed: int, k: int) -> torch.Generator:
    """Random generator of epoch ``k``; unrelated for neighbouring seeds and epochs, unlike one seeded ``seed + k``."""
    mixed = int.from_bytes(hashlib.blake2b(f"{seed}/{k}".encode(), digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(mixed)
