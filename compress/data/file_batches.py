"""Batches of images that stay files: decoded by worker processes, the same whatever their number."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, RunError
from .augment import Augmentation, chances, epoch_key
from .batches import Batch, Batches, epoch_generator
from .file_images import FileImages
from .flow import Flow
from .images import ImageSet, Rows
from .scaled import Pixels

CHUNK = 32
"""Images that one worker decodes at a time: all of them work on the next batch, and little waits in shared memory."""

_AHEAD = 2  # batches that are decoded before they are asked for
_MOST_WORKERS = 8


class _Job(NamedTuple):
    """Files to decode in this order; ``position`` of the first in its epoch, ``key`` of the epoch."""

    rows: NDArray[np.int64]
    position: int
    key: int


@dataclass(frozen=True)
class _Unreadable:
    """Why a worker cannot decode its files, in one sentence: raised where the run can hear it."""

    reason: str


class _Reader(Dataset[Any]):
    """Decodes jobs, in a worker: bytes ``(n, side, side, 3)``."""

    def __init__(self, files: FileImages, augmentation: Augmentation) -> None:
        self.files, self.augmentation = files, augmentation

    def __getitem__(self, job: _Job) -> Tensor | _Unreadable:
        images = np.empty((len(job.rows), self.files.side, self.files.side, 3), dtype=np.uint8)
        try:
            for number, row in enumerate(job.rows.tolist()):
                images[number] = self._one(row, job.position + number, job.key)
        except DataError as error:
            return _Unreadable(str(error))
        return torch.from_numpy(images)

    def _one(self, row: int, position: int, key: int) -> Pixels:
        if not self.augmentation.draws:
            return self.files.plain(row)
        return self.augmentation.read(self.files, row, chances(key, position))


class FileBatches(Batches):
    """As ``Batches``, of an image set of ``FileImages``. ``epoch(k, start=...)`` begins anywhere at no cost.

    What is in a batch depends on ``seed``, the epoch and the positions in it. Decoded ahead are two batches (or a chunk
    per worker, where that is more), as bytes: memory does not grow with the set.

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

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``k`` from batch ``start`` on; the same ``k`` yields the same pixels."""
        total = len(self.images)
        order = torch.randperm(total, generator=epoch_generator(self.seed, k)) if self.shuffle else torch.arange(total)
        self.flow.workers = self.workers
        self.flow.lap("computing")
        with self._decoded(_Jobs(self, order.numpy(), epoch_key(self.seed, k), start)) as decoded:
            for begin, end in self._bounds(start):
                indices = order[begin:end]
                images = self._gather(decoded, end - begin)
                self.flow.images += end - begin
                yield Batch(images, torch.from_numpy(self.images.labels[indices.numpy()]), indices)
                self.flow.lap("computing")

    def _bounds(self, start: int) -> Iterator[tuple[int, int]]:
        """First and last position (excluded) of every batch."""
        for begin in range(start * self.batch_size, self.count, self.batch_size):
            yield begin, min(begin + self.batch_size, self.count)

    def _gather(self, decoded: Iterator[Tensor | _Unreadable], size: int) -> Tensor:
        """The next ``size`` images ``(size, 3, side, side)`` float32 in [0, 1] on the device, channels last."""
        side = self.files.side
        images = torch.empty((size, side, side, 3), dtype=torch.float32, device=self.device)
        at = 0
        while at < size:
            chunk = next(decoded)
            if isinstance(chunk, _Unreadable):
                raise DataError(chunk.reason)
            self.flow.lap("waiting")
            moved = chunk.to(self.device, non_blocking=True)
            torch.div(moved, 255, out=images[at : at + len(chunk)])
            at += len(chunk)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.flow.lap("moving")
        return images.permute(0, 3, 1, 2)

    @contextlib.contextmanager
    def _decoded(self, jobs: _Jobs) -> Iterator[Iterator[Tensor | _Unreadable]]:
        """What the workers make of ``jobs``, in order; they are gone when the block ends."""
        ahead = max(2, math.ceil(_AHEAD * self.batch_size / (CHUNK * max(1, self.workers))))
        loader = DataLoader(
            _Reader(self.files, self.augmentation),
            batch_size=None,
            sampler=jobs,
            num_workers=self.workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=ahead if self.workers else None,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # it would draw from the run's random numbers, and change what follows
        )
        try:
            yield iter(loader)
        except RuntimeError as error:
            if (told := killed_worker(error)) is None:
                raise
            raise told from error


class _Jobs:
    """The jobs of an epoch from a batch on, made one by one: a chunk never crosses the end of a batch."""

    def __init__(self, batches: FileBatches, order: NDArray[np.int64], key: int, start: int) -> None:
        self.batches, self.order, self.key, self.start = batches, order, key, start

    def __len__(self) -> int:
        return sum(math.ceil((end - begin) / CHUNK) for begin, end in self.batches._bounds(self.start))

    def __iter__(self) -> Iterator[_Job]:
        rows = self.batches.rows
        for begin, end in self.batches._bounds(self.start):
            for first in range(begin, end, CHUNK):
                yield _Job(rows[self.order[first : min(first + CHUNK, end)]], first, self.key)


def default_workers() -> int:
    """As many as this process may use cores, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def to_batches(images: ImageSet, batch_size: int, **options: Any) -> Batches:
    """``FileBatches`` of images that stay files, ``Batches`` of others (which need no workers, device or flow)."""
    if isinstance(images.images, Rows) and isinstance(images.images.pool, FileImages):
        return FileBatches(images, batch_size, **options)
    known = {"shuffle", "seed", "crop_padding", "flip", "drop_last"}
    return Batches(images, batch_size, **{name: value for name, value in options.items() if name in known})


def _as_is(item: Any) -> Any:
    return item


def _begin_worker(_number: int) -> None:
    """Leave signals to the process that learns, and do not outlive it: a lock that it held would stay with us."""
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
