"""Which rows of every batch a reader is given: all of them, or what one of several processes computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..parallel.processes import ShardSlice, even_slice
from .images import ImageSet

Share = Callable[[int, int], Sequence[slice]]
"""The number of a batch in its epoch and its size -> the rows to read, each of them as a batch of its own."""


def all_rows(number: int, size: int) -> Sequence[slice]:
    """Whole batches."""
    del number
    return [slice(0, size)]


def rows_of(rank: int, world: int, accumulate: int = 1) -> Share:
    """What process ``rank`` of ``world`` learns on: ``accumulate`` parts of every batch, and its share of each.

    The parts are those of a single process, so that their batch statistics do not depend on ``world``.
    """

    def share(number: int, size: int) -> Sequence[slice]:
        del number
        parts = (even_slice(size, k, accumulate) for k in range(accumulate))
        mine = ((part.start, even_slice(part.stop - part.start, rank, world)) for part in parts)
        return [slice(start + rows.start, start + rows.stop) for start, rows in mine]

    return share


def batches_of(rank: int, world: int) -> Share:
    """Every ``world``-th batch as a whole: what is computed of an image is then the same to the bit."""
    return lambda number, size: [slice(0, size)] if number % world == rank else []


def pieces(number: int, size: int, share: Share) -> Iterator[ShardSlice]:
    """The parts of batch ``number`` that ``share`` gives."""
    for rows in share(number, size):
        assert rows.start < rows.stop <= size, "recipes allow no batch with fewer images than processes"
        yield ShardSlice(rows.start, rows.stop, size)


class Batch(NamedTuple):
    """Images ``(N, 3, H, W)`` float32 in [0, 1]; labels and positions in the image set ``(N,)`` int64.

    Images that stay files come as bytes; ``training.to_device`` makes float32 of them.
    ``part``: which rows of a larger batch these are; None: it is whole.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    part: ShardSlice | None = None


class Batches:
    """An image set in batches. Order and augmentation depend on ``seed`` and the epoch only.

    ``crop_padding``: zeros around the image, in pixels, before a random crop back to its size. Padding
    happens in raw image space, before any normalisation: zeros are black.
    ``flip``: mirror every image with probability 1/2.

    Raises:
        DataError: there is nothing to iterate over.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        crop_padding: int = 0,
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
        self.crop_padding = crop_padding
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

    def epoch(self, k: int, start: int = 0, *, share: Share = all_rows) -> Iterator[Batch]:
        """The batches of epoch ``k`` from number ``start`` on; the same ``k`` yields the same pixels, whatever was
        drawn before. Only the rows that ``share`` gives are read; nothing that happens to an image depends on it."""
        random = epoch_generator(self.seed, k)
        total = len(self.images)
        order = torch.randperm(total, generator=random) if self.shuffle else torch.arange(total)
        # Drawn for the whole epoch at once, so that the batch size does not change what happens to an image.
        corners = torch.randint(2 * self.crop_padding + 1, (total, 2), generator=random)
        mirrored = torch.rand(total, generator=random) < 0.5
        for number in range(start, len(self)):
            first = number * self.batch_size
            for part in pieces(number, min(self.batch_size, self.count - first), share):
                rows = slice(first + part.start, first + part.stop)
                indices = order[rows]
                images = self._read(indices)
                if self.crop_padding:
                    images = crop(images, corners[rows], self.crop_padding)
                if self.flip:
                    images = torch.where(mirrored[rows, None, None, None], images.flip(3), images)
                labels = torch.from_numpy(self.images.labels[indices.numpy()])
                yield Batch(images.to(torch.float32).div_(255), labels, indices, None if part.whole else part)

    def _read(self, indices: Tensor) -> Tensor:
        """Bytes ``(N, 3, H, W)`` at ``indices``, read in the order of the file and put back in theirs."""
        wanted, back = np.unique(indices.numpy(), return_inverse=True)
        images = torch.from_numpy(self.images.images[wanted])
        return images[torch.from_numpy(back)] if self.shuffle else images


def crop(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Windows of the images' own size in the zero-padded images.

    Args:
        images: ``(N, 3, H, W)``.
        corners: ``(N, 2)`` int64, row and column of each window in the padded image, 0 to ``2 * padding``.
        padding: zeros on every side, pixels.
    """
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, 3, 2p + 1, 2p + 1, H, W), a view
    return windows[torch.arange(len(images)), :, corners[:, 0], corners[:, 1]]


def epoch_generator(seed: int, k: int) -> torch.Generator:
    """Unrelated random numbers for neighbouring seeds and epochs, where ``seed + k`` would share them."""
    mixed = int.from_bytes(hashlib.blake2b(f"{seed}/{k}".encode(), digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(mixed)
