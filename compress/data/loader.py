"""Batches from a user's data loader or from tensors, and one distributed pass over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import DataError
from ..parallel.processes import gather, rank, single_process, world_size
from ..progress import SILENT, Progress
from .batches import Batch, Sharding, all_rows, epoch_generator, round_robin, shard_slices

T = TypeVar("T")


class BatchSource(Protocol):
    """Protocol: batches of images per epoch, as read by training loops and evaluation."""

    @property
    def batch_size(self) -> int:
        """Images in a full batch."""
        ...

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """The batches of epoch ``k`` from number ``start`` on; only the rows that ``sharding`` selects."""
        ...


@dataclass(frozen=True)
class Expected:
    """The images and labels that a model takes. ``size``: (H, W) in pixels; ``classes``: how many; None: any."""

    channels: int
    size: tuple[int, int] | None = None
    classes: int | None = None

    def check(self, images: Tensor, labels: Tensor | None) -> None:
        """Raise DataError for images (N, C, H, W) or labels (N,), if there are any, that do not fit."""
        shape = tuple(images.shape)
        if shape[1] != self.channels:
            last = ": its channels come last, permute(0, 3, 1, 2) puts them first" if shape[3] == self.channels else ""
            raise DataError(
                f"the loader's images are {shape}, and the model takes (N, {self.channels}, H, W)"
                f"{last or ': give images as the model takes them'}"
            )
        if self.size is not None and shape[2:] != self.size:
            raise DataError(
                f"the loader's images are {shape[2]}x{shape[3]} pixels, and the example that the model was traced with "
                f"is {self.size[0]}x{self.size[1]}: give images of one size, that of the example"
            )
        if labels is None:
            return
        low, high = int(labels.min()), int(labels.max())
        if self.classes is not None and not 0 <= low <= high < self.classes:
            raise DataError(
                f"the loader's labels go from {low} to {high}, and the model has {self.classes} classes, 0 to "
                f"{self.classes - 1}: number the classes from 0, and leave out images that have none (255, -1)"
            )


class LoaderBatches:
    """Batches of a user's loader (any iterable of (images, labels) that can be iterated again), in its own order.

    ``indices`` count within an epoch. The first batch is read at once, to refuse what is not (images, labels); all
    are counted where the loader does not know its length.

    Raises:
        DataError: the loader yields nothing, something else or not what is ``expected``, or cannot be iterated a second
            time.
    """

    def __init__(self, loader: Iterable[Any], expected: Expected | None = None) -> None:
        self.loader, self.expected, self._seen = loader, expected, False
        first = next(self.epoch(0), None)
        if first is None:
            raise DataError("the loader yields no batches: give one that yields (images, labels)")
        self.batch_size, self._seen = len(first.labels), True
        self._batches = len(loader) if isinstance(loader, Sized) else sum(1 for _ in self.epoch(1))

    def __len__(self) -> int:
        return self._batches

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """One pass over the loader, whatever ``k`` is. A loader cannot skip: batches before ``start`` and rows that
        ``sharding`` leaves out are read, too."""
        del k
        seen = 0
        for number, item in enumerate(self.loader):
            images, labels = _check_batch(item, self.expected)
            if number >= start:
                yield from _shard_batch(Batch(images, labels, torch.arange(seen, seen + len(labels))), number, sharding)
            seen += len(labels)
        if not seen and self._seen:
            raise DataError(
                "the loader is empty the second time it is read (a generator?): give a DataLoader or a list of batches"
            )


class TensorBatches:
    """Batches of images in memory, reshuffled every epoch by ``seed``.

    Args:
        images: (N, 3, H, W) as the classifier takes them; ``labels`` (N,) int64.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, *, seed: int = 0, shuffle: bool = True) -> None:
        assert len(images) == len(labels) > 0
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))
        self.seed, self.shuffle = seed, shuffle

    def __len__(self) -> int:
        """Batches per epoch; shuffled, an incomplete last batch is dropped."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.shuffle)

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """See ``BatchSource``; the same ``k`` yields the same batches."""
        total = len(self.images)
        order = torch.randperm(total, generator=epoch_generator(self.seed, k)) if self.shuffle else torch.arange(total)
        for number in range(start, len(self)):
            indices = order[number * self.batch_size : (number + 1) * self.batch_size]
            for part in shard_slices(number, len(indices), sharding):
                rows = indices[part.start : part.stop]
                yield Batch(self.images[rows], self.labels[rows], rows, None if part.whole else part)


def first_images(loader: Iterable[Any], count: int, expected: Expected | None = None) -> tuple[Tensor, Tensor | None]:
    """The first ``count`` images (N, 3, H, W) of a loader and their labels (N,), in memory; fewer if it has fewer.

    Labels are None for a loader of images alone.

    Raises:
        DataError: the loader yields nothing, something else than images or (images, labels), or labels for some only.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for item in loader:
        if sum(map(len, images)) >= count:
            break
        batch_images, batch_labels = _check_unlabelled(item, expected)
        if images and batch_images.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"the loader's images are of several sizes ({tuple(images[0].shape[1:])} and "
                f"{tuple(batch_images.shape[1:])}): give images of one size"
            )
        images.append(batch_images)
        if batch_labels is not None:
            labels.append(batch_labels)
    if not images:
        raise DataError("the loader yields no batches: give one that yields (images, labels), or images alone")
    if labels and len(labels) != len(images):
        raise DataError(
            f"the loader yields labels with {len(labels)} of its first {len(images)} batches: give them with all of "
            "them, or with none"
        )
    return torch.cat(images)[:count], torch.cat(labels)[:count] if labels else None


def first_batches(loader: Iterable[Any], count: int, expected: Expected | None = None) -> Iterator[Tensor]:
    """The images (N, 3, H, W) of the first ``count`` batches of a loader, read once; fewer if it has fewer.

    Raises:
        DataError: the loader yields nothing, or something else than images or (images, labels).
    """
    empty = True
    for item in islice(loader, count):
        yield _check_unlabelled(item, expected)[0]
        empty = False
    if empty:
        raise DataError("the loader yields no batches: give one that yields (images, labels), or images alone")


def one_pass(
    batches: BatchSource,
    work: Callable[[int, Batch], T],
    *,
    what: str | None = None,
    progress: Progress = SILENT,
) -> list[T]:
    """``work(number, batch)`` of all batches of one epoch, in order; distributed over processes, gathered on all.

    A batch is never split, so that results are the same to the bit for any number of processes; ``work`` must not draw
    random numbers that depend on earlier batches. Results must be on the CPU.

    Args:
        what: label of the progress bar; None: no bar.
    """
    processes, first = world_size(), rank()
    own = batches.epoch(0, sharding=round_robin(first, processes))
    if what is not None:
        total = -(-len(batches) // processes)
        own = progress.track(own, what, total=total, unit="img", scale=processes * batches.batch_size)
    with single_process():
        results = [work(first + processes * k, batch) for k, batch in enumerate(own)]
    by_rank = gather(results)
    return [by_rank[number % processes][number // processes] for number in range(sum(map(len, by_rank)))]


def _shard_batch(batch: Batch, number: int, sharding: Sharding) -> Iterator[Batch]:
    """The slices of a complete batch that ``sharding`` selects."""
    for part in shard_slices(number, len(batch.labels), sharding):
        rows = slice(part.start, part.stop)
        yield Batch(batch.images[rows], batch.labels[rows], batch.indices[rows], None if part.whole else part)


def _check_unlabelled(item: Any, expected: Expected | None) -> tuple[Tensor, Tensor | None]:
    """Images of one batch of a user's loader, and its labels if it has any: a tensor, (images,) or (images, labels)."""
    images = item[0] if isinstance(item, list | tuple) and len(item) == 1 else item
    if isinstance(images, Tensor):
        images = _check_images(images)
        if expected is not None:
            expected.check(images, None)
        return images, None
    return _check_batch(item, expected)


def _check_batch(item: Any, expected: Expected | None) -> tuple[Tensor, Tensor]:
    """Images and labels of one batch of a user's loader, on the CPU; raises DataError for anything else."""
    if not isinstance(item, list | tuple) or len(item) < 2 or not all(isinstance(part, Tensor) for part in item[:2]):
        raise DataError(
            f"the loader yields {_describe_type(item)}; every batch must be (images, labels), two tensors: "
            "wrap the loader in one that yields those (torch.from_numpy makes tensors of arrays)"
        )
    images, labels = _check_images(item[0]), item[1].detach().cpu()
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise DataError(
            f"the loader's labels are {tuple(labels.shape)} {labels.dtype}; class numbers ({len(images)},) of an "
            "integer type are needed, not one-hot or mixed labels"
        )
    if expected is not None:
        expected.check(images, labels)
    return images, labels.long()


def _check_images(images: Tensor) -> Tensor:
    """(N, 3, H, W) float32 on the CPU; raises DataError for anything else."""
    images = images.detach().cpu()
    if images.dim() != 4 or not images.is_floating_point() or len(images) == 0:
        raise DataError(
            f"the loader's images are {tuple(images.shape)} {images.dtype}; the classifier's input is needed: "
            "(N, 3, H, W) floating point, N at least 1"
        )
    return images.float()


def _describe_type(item: Any) -> str:
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item) or 'nothing'}"
    return f"a {type(item).__name__}"
