"""Batches of images decoded on the fly by worker processes, and the pool of batch buffers that they fill."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
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

from ..errors import BrokenImage, DataError, RunError
from ..parallel.processes import ShardSlice
from .augment import Augmentation, epoch_key, uniform_draws
from .batches import Batch, Batches, Sharding, all_rows, epoch_generator, shard_slices
from .flow import Flow
from .images import ImageSet, Rows
from .on_the_fly import FileImages
from .scaled import Pixels

CHUNK = 32
"""Images that a worker decodes at a time: all workers share the next batch, and little waits in shared memory."""
_AHEAD = 2  # batches decoded in advance
_MAX_WORKERS = 8
_UNREFERENCED = 3  # sys.getrefcount of an array that only the pool holds: its list, the loop variable, the argument


class FileBatches(Batches):
    """Like ``Batches``, for image sets of ``FileImages``. ``epoch(k, start=...)`` skips batches at no cost.

    Images are uint8 (a quarter of the transfer to a GPU); ``to_device`` converts them to float32 in [0, 1]. The content
    of a batch depends on ``seed``, the epoch and the positions in it. Two batches (or two chunks per worker, if that is
    more) are decoded in advance: memory does not grow with the data set.

    Args:
        crop_scale: range of a random crop's share of the area; replaces shifts by ``crop_padding``.
        workers: decoding processes; 0: decode in this one; None: one per core, up to 8.
        device: where the images of a batch are put; labels and indices stay on the CPU.
        flow: measures the time spent waiting for images.

    Raises:
        DataError: there are no images; from ``epoch``, an image cannot be read (it is named).
        RunError: from ``epoch``, a worker was killed.
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
        assert isinstance(images.images.pool, FileImages), "images in memory or in a cache need Batches"
        self.files, self.rows = images.images.pool, images.images.order
        self.augmentation = Augmentation(crop_scale, crop_padding, flip)
        self.workers = default_workers() if workers is None else workers
        self.device = device or torch.device("cpu")
        self.flow = flow or Flow()

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """The batches of epoch ``k`` from number ``start`` on; the same ``k`` yields the same pixels. Only the rows
        that ``sharding`` selects are decoded; the augmentation of an image does not depend on it."""
        total = len(self.images)
        order = torch.randperm(total, generator=epoch_generator(self.seed, k)) if self.shuffle else torch.arange(total)
        self.flow.workers = self.workers
        self.flow.lap("computing")
        parts = list(self._parts(start, sharding))
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

    def _parts(self, start: int, sharding: Sharding) -> Iterator[tuple[int, int, ShardSlice]]:
        """(first position, last exclusive, slice) of each shard of the batches from ``start`` on."""
        for number in range(start, len(self)):
            first = number * self.batch_size
            for part in shard_slices(number, min(self.batch_size, self.count - first), sharding):
                yield first + part.start, first + part.stop, part

    def _gather(self, decoded: Iterator[Tensor], size: int, memory: BufferPool) -> Tensor:
        """The next ``size`` images ``(size, 3, side, side)`` uint8 on the device, channels last."""
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
        """Chunks ``(n, side, side, 3)`` uint8 in order, each valid until the next; workers end with the context."""
        ahead = max(2, math.ceil(_AHEAD * self.batch_size / (CHUNK * max(1, self.workers))))
        # One slot for each chunk being decoded or waiting, and one for the chunk being read.
        count = ahead * self.workers + 2
        slots = torch.empty((count, CHUNK, self.files.side, self.files.side, 3), dtype=torch.uint8)
        cast(Any, slots).share_memory_()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores: as set
                loader = DataLoader(
                    _JobDataset(self.files, self.augmentation, slots),
                    batch_size=None,
                    sampler=_JobSampler(self.rows[order], bounds, key, count),
                    num_workers=self.workers,
                    collate_fn=_identity,
                    prefetch_factor=ahead if self.workers else None,
                    worker_init_fn=_init_worker,
                    generator=torch.Generator(),  # without its own it would advance the run's random state
                )
                started = iter(loader)
            yield _chunks(started, slots)
        except RuntimeError as error:
            if (worker_error := killed_worker(error)) is None:
                raise
            raise worker_error from error


def to_batches(images: ImageSet, batch_size: int, **options: Any) -> Batches:
    """``FileBatches`` for images decoded on the fly, else ``Batches``, which ignore workers, device and flow."""
    if isinstance(images.images, Rows) and isinstance(images.images.pool, FileImages):
        return FileBatches(images, batch_size, **options)
    known = {"shuffle", "seed", "crop_padding", "crop_scale", "flip", "drop_last"}
    return Batches(images, batch_size, **{name: value for name, value in options.items() if name in known})


def default_workers() -> int:
    """Cores available to this process, up to 8; processes started by torchrun on one machine share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), _MAX_WORKERS)


def killed_worker(error: RuntimeError) -> RunError | None:
    """The error to raise if torch reports a dead DataLoader worker (in any code of a training); else None."""
    text = str(error)
    if "DataLoader worker" not in text:
        return None
    return RunError(
        f"a process that decodes images was killed ({text.splitlines()[0].rstrip('.')}): memory, or shared memory "
        "(/dev/shm), may have run out; set data.workers lower or give the machine more (a container: --shm-size), and "
        "run again"
    )


class BufferPool:
    """A pool of uint8 batch buffers, reused once unreferenced: new memory costs a page fault per 4 KiB.

    Args:
        shape: (n, ...) of the largest buffer needed.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._arrays: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> Tensor:
        """An uninitialised tensor (size, ...), ``size`` at most ``n``."""
        for array in self._arrays:
            if sys.getrefcount(array) == _UNREFERENCED:
                return torch.from_numpy(array[:size])
        array = np.empty(self.shape, dtype=np.uint8)
        self._arrays.append(array)
        return torch.from_numpy(array[:size])


class _DecodeJob(NamedTuple):
    """Rows of the image set to decode into ``slot``; ``position`` of the first in its epoch, ``key`` of the epoch."""

    rows: NDArray[np.int64]
    position: int
    key: int
    slot: int


@dataclass(frozen=True)
class _DecodeError:
    """A worker's DataError, returned instead of raised; the main process raises it."""

    message: str
    broken: bool


class _JobDataset(Dataset[Any]):
    """Runs jobs in a worker: decodes into shared memory ``slots`` (K, CHUNK, side, side, 3) uint8."""

    def __init__(self, files: FileImages, augmentation: Augmentation, slots: Tensor) -> None:
        self.files, self.augmentation, self.slots = files, augmentation, slots

    def __getitem__(self, job: _DecodeJob) -> _DecodeJob | _DecodeError:
        images = self.slots[job.slot].numpy()
        try:
            for number, row in enumerate(job.rows.tolist()):
                images[number] = self._decode_image(row, job.position + number, job.key)
        except DataError as error:
            return _DecodeError(str(error), isinstance(error, BrokenImage))
        return job

    def _decode_image(self, row: int, position: int, key: int) -> Pixels:
        if not self.augmentation.draws:
            return self.files.plain(row)
        return self.augmentation.read(self.files, row, uniform_draws(key, position))


class _JobSampler:
    """Splits batches, given by first and last (exclusive) position, into jobs; no job crosses the end of a batch."""

    def __init__(self, rows: NDArray[np.int64], bounds: list[tuple[int, int]], key: int, slots: int) -> None:
        self.rows, self.bounds, self.key, self.slots = rows, bounds, key, slots

    def __len__(self) -> int:
        return sum(math.ceil((end - begin) / CHUNK) for begin, end in self.bounds)

    def __iter__(self) -> Iterator[_DecodeJob]:
        number = 0
        for begin, end in self.bounds:
            for first in range(begin, end, CHUNK):
                yield _DecodeJob(self.rows[first : min(first + CHUNK, end)], first, self.key, number % self.slots)
                number += 1


def _chunks(done: Iterator[_DecodeJob | _DecodeError], slots: Tensor) -> Iterator[Tensor]:
    for job in done:
        if isinstance(job, _DecodeError):
            raise BrokenImage(job.message) if job.broken else DataError(job.message)
        yield slots[job.slot, : len(job.rows)]


def _identity(item: Any) -> Any:
    return item


def _init_worker(_number: int) -> None:
    """Leave signals to the main process, and die with it: a worker that survived would keep its locks.

    Inherited objects are excluded from garbage collection, which would copy their memory pages.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; elsewhere torch polls every few seconds
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)  # it died before this process asked to be told
