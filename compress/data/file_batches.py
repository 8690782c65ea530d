"""Memory of batches, given out again once nobody looks at it: new memory costs a page fault for every 4 KiB."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, RunError
from ..parallel.processes import ShardSlice
from .augment import Augmentation, chances, epoch_key
from .batches import Batch, Batches, Share, all_rows, epoch_generator, pieces
from .flow import Flow
from .images import ImageSet, Rows
from .on_the_fly import FileImages
from .scaled import Pixels

_UNUSED = 3  # references to an array that is in the list, is looked at, and is being asked for its references


class BufferPool:
    """Uint8 tensors of one shape; one's memory serves again when no tensor or array that shares it is left.

    Args:
        shape: (n, ...) of the largest that is wanted.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._arrays: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> Tensor:
        """(size, ...) with anything in it, ``size`` at most ``n``; as many as are held at a time take memory."""
        for array in self._arrays:
            if sys.getrefcount(array) == _UNUSED:
                return torch.from_numpy(array[:size])
        array = np.empty(self.shape, dtype=np.uint8)
        self._arrays.append(array)
        return torch.from_numpy(array[:size])


CHUNK = 32
"""Images that one worker decodes at a time: all of them work on the next batch, and little waits in shared memory."""

_AHEAD = 2  # batches that are decoded before they are asked for
_MOST_WORKERS = 8


class _Job(NamedTuple):
    """Files to decode in this order into a ``slot``; ``position`` of the first in its epoch, ``key`` of the epoch."""

    rows: NDArray[np.int64]
    position: int
    key: int
    slot: int


@dataclass(frozen=True)
class _Unreadable:
    """Why a worker cannot decode its files, in one sentence: raised where the run can hear it."""

    reason: str


class _Reader(Dataset[Any]):
    """Decodes jobs, in a worker, into memory that all share: ``slots`` (K, CHUNK, side, side, 3) bytes."""

    def __init__(self, files: FileImages, augmentation: Augmentation, slots: Tensor) -> None:
        self.files, self.augmentation, self.slots = files, augmentation, slots

    def __getitem__(self, job: _Job) -> _Job | _Unreadable:
        images = self.slots[job.slot].numpy()
        try:
            for number, row in enumerate(job.rows.tolist()):
                images[number] = self._one(row, job.position + number, job.key)
        except DataError as error:
            return _Unreadable(str(error))
        return job

    def _one(self, row: int, position: int, key: int) -> Pixels:
        if not self.augmentation.draws:
            return self.files.plain(row)
        return self.augmentation.read(self.files, row, chances(key, position))


class FileBatches(Batches):
    """As ``Batches``, of an image set of ``FileImages``. ``epoch(k, start=...)`` begins anywhere at no cost.

    Images come as bytes, which ``to_device`` makes float32 in [0, 1]: a quarter of the way to a GPU, and nothing that
    takes time from workers. What is in a batch depends on ``seed``, the epoch and the positions in it. Two batches (or
    two chunks per worker, where that is more) are decoded ahead: memory does not grow with the set.

    Args:
        crop_scale: share of the area of a random window that is scaled to the side, from and to; replaces shifts.
        workers: processes that decode, 0: this one does; None: as many as there are cores, up to 8.
        device: where the images of a batch are put; labels and indices stay on the CPU.
        flow: told how long is waited for images.

    Raises:
        DataError: there is nothing to iterate over; later, an image that cannot be read (it is named).
        RunError: later, a worker was killed.
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
        workers: int | None = None,
        device: torch.device | None = None,
        flow: Flow | None = None,
    ) -> None:
        super().__init__(
            images,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            crop_padding=crop_padding,
            flip=flip,
            drop_last=drop_last,
        )
        assert isinstance(images.images, Rows)
        assert isinstance(images.images.pool, FileImages), "other images are in memory or in a cache"
        self.files, self.rows = images.images.pool, images.images.order
        self.augmentation = Augmentation(crop_scale, crop_padding, flip)
        self.workers = default_workers() if workers is None else workers
        self.device = device or torch.device("cpu")
        self.flow = flow or Flow()

    def epoch(self, k: int, start: int = 0, *, share: Share = all_rows) -> Iterator[Batch]:
        """The batches of epoch ``k`` from number ``start`` on; the same ``k`` yields the same pixels. Only the rows
        that ``share`` gives are decoded; nothing that happens to an image depends on it."""
        total = len(self.images)
        order = torch.randperm(total, generator=epoch_generator(self.seed, k)) if self.shuffle else torch.arange(total)
        self.flow.workers = self.workers
        self.flow.lap("computing")
        parts = list(self._parts(start, share))
        bounds = [(begin, end) for begin, end, _ in parts]
        memory = BufferPool((self.batch_size, self.files.side, self.files.side, 3))
        with self._decoded(order.numpy(), epoch_key(self.seed, k), bounds) as decoded:
            for begin, end, part in parts:
                indices = order[begin:end]
                images = self._gather(decoded, end - begin, memory)
                self.flow.images += end - begin
                labels = torch.from_numpy(self.images.labels[indices.numpy()])
                yield Batch(images, labels, indices, None if part.whole else part)
                self.flow.lap("computing")

    def _parts(self, start: int, share: Share) -> Iterator[tuple[int, int, ShardSlice]]:
        """What ``share`` gives of every batch from ``start`` on, with its first and last position (excluded)."""
        for number in range(start, len(self)):
            first = number * self.batch_size
            for part in pieces(number, min(self.batch_size, self.count - first), share):
                yield first + part.start, first + part.stop, part

    def _gather(self, decoded: Iterator[Tensor], size: int, memory: BufferPool) -> Tensor:
        """The next ``size`` images ``(size, 3, side, side)`` as bytes on the device, channels last."""
        on_cpu = self.device.type == "cpu"
        shape = size, *memory.shape[1:]
        images = memory.take(size) if on_cpu else torch.empty(shape, dtype=torch.uint8, device=self.device)
        at = 0
        while at < size:
            chunk = next(decoded)
            self.flow.lap("waiting")
            part = images[at : at + len(chunk)]
            at += len(chunk)
            if on_cpu:
                part.numpy()[:] = chunk.numpy()  # several times as fast as torch's copy
                self.flow.lap("waiting")
                continue
            part.copy_(chunk)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.flow.lap("moving")
        return images.permute(0, 3, 1, 2)

    @contextlib.contextmanager
    def _decoded(self, order: NDArray[np.int64], key: int, bounds: list[tuple[int, int]]) -> Iterator[Iterator[Tensor]]:
        """Chunks ``(n, side, side, 3)`` of bytes in order, each until the next; the workers are gone when this ends."""
        ahead = max(2, math.ceil(_AHEAD * self.batch_size / (CHUNK * max(1, self.workers))))
        # One slot for each chunk that is under way, and one for the chunk that is being read.
        count = ahead * self.workers + 2
        slots = torch.empty((count, CHUNK, self.files.side, self.files.side, 3), dtype=torch.uint8)
        cast(Any, slots).share_memory_()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores, as the recipe asks
                loader = DataLoader(
                    _Reader(self.files, self.augmentation, slots),
                    batch_size=None,
                    sampler=_Jobs(self.rows[order], bounds, key, count),
                    num_workers=self.workers,
                    collate_fn=_as_is,
                    prefetch_factor=ahead if self.workers else None,
                    worker_init_fn=_begin_worker,
                    generator=torch.Generator(),  # it would draw from the run's random numbers, and change what follows
                )
                started = iter(loader)
            yield _chunks(started, slots)
        except RuntimeError as error:
            if (told := killed_worker(error)) is None:
                raise
            raise told from error


def _chunks(done: Iterator[_Job | _Unreadable], slots: Tensor) -> Iterator[Tensor]:
    for job in done:
        if isinstance(job, _Unreadable):
            raise DataError(job.reason)
        yield slots[job.slot, : len(job.rows)]


class _Jobs:
    """The jobs of some batches (first and last position, excluded), made one by one: none crosses a batch's end."""

    def __init__(self, rows: NDArray[np.int64], bounds: list[tuple[int, int]], key: int, slots: int) -> None:
        self.rows, self.bounds, self.key, self.slots = rows, bounds, key, slots

    def __len__(self) -> int:
        return sum(math.ceil((end - begin) / CHUNK) for begin, end in self.bounds)

    def __iter__(self) -> Iterator[_Job]:
        number = 0
        for begin, end in self.bounds:
            for first in range(begin, end, CHUNK):
                yield _Job(self.rows[first : min(first + CHUNK, end)], first, self.key, number % self.slots)
                number += 1


def default_workers() -> int:
    """As many as this process may use cores, up to 8; processes that torchrun started together share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), _MOST_WORKERS)


def to_batches(images: ImageSet, batch_size: int, **options: Any) -> Batches:
    """``FileBatches`` of images that stay files, ``Batches`` of others (which need no workers, device or flow)."""
    if isinstance(images.images, Rows) and isinstance(images.images.pool, FileImages):
        return FileBatches(images, batch_size, **options)
    known = {"shuffle", "seed", "crop_padding", "flip", "drop_last"}
    return Batches(images, batch_size, **{name: value for name, value in options.items() if name in known})


def _as_is(item: Any) -> Any:
    return item


def _begin_worker(_number: int) -> None:
    """Leave signals to the process that learns, and do not outlive it: a lock that it held would stay with us.

    What that process has made is not searched for garbage here: that takes time, and copies the memory it lies in.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; elsewhere torch looks every few seconds


def killed_worker(error: RuntimeError) -> RunError | None:
    """What to tell of an error by which torch says that a worker died; it may interrupt any code that learns."""
    text = str(error)
    if "DataLoader worker" not in text:
        return None
    return RunError(
        f"a process that decodes images was killed ({text.splitlines()[0].rstrip('.')}): memory, or shared memory "
        "(/dev/shm), may have run out; set data.workers lower or give the machine more (a container: --shm-size), and "
        "run again"
    )
