"""Several processes at one batch: who computes what of it, and how what each finds becomes the same for all.

Without a process group (see ``make_fabric``), and inside ``single_process``, there is one process: this one.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import RunError

T = TypeVar("T")

_PIECE = 2**28
"""Bytes that are broadcast at once: more would pass what the backends count in 32 bits."""

_SINGLE_PROCESS: ContextVar[bool] = ContextVar("alone", default=False)


class ShardSlice(NamedTuple):
    """Rows ``start`` to ``stop`` of a batch of ``total``: what a process has of it at a time."""

    start: int
    stop: int
    total: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the batch."""
        return self.stop - self.start == self.total

    @property
    def share(self) -> float:
        """Its weight in a mean over the batch."""
        return (self.stop - self.start) / self.total


_SHARD: ContextVar[ShardSlice | None] = ContextVar("part", default=None)


def world_size() -> int:
    """How many processes work together here and now."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Which of them this one is; 0 leads."""
    return dist.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and not _SINGLE_PROCESS.get()


@contextmanager
def single_process() -> Iterator[None]:
    """Within the block this process works as if there were no other."""
    token = _SINGLE_PROCESS.set(True)
    try:
        yield
    finally:
        _SINGLE_PROCESS.reset(token)


@contextmanager
def distributed() -> Iterator[None]:
    """Undoes ``single_process`` within the block."""
    token = _SINGLE_PROCESS.set(False)
    try:
        yield
    finally:
        _SINGLE_PROCESS.reset(token)


def even_slice(count: int, number: int, of: int) -> slice:
    """The ``number``-th of ``of`` contiguous shares of ``count`` things; shares differ by one at most."""
    return slice(count * number // of, count * (number + 1) // of)


@contextmanager
def computing_shard(part: ShardSlice | None) -> Iterator[None]:
    """Within the block networks and losses see ``part`` of a batch: see ``random_per_image`` and ``mean_and_std``."""
    token = _SHARD.set(part)
    try:
        yield
    finally:
        _SHARD.reset(token)


def current_shard() -> ShardSlice | None:
    """What of a batch is being computed; None outside a training step."""
    return _SHARD.get()


def random_per_image(like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Random numbers for images: as ``like`` (N, ...), drawn for the whole batch, of which this part's are returned.

    All processes draw the same and keep their rows, so that what happens to an image does not depend on how many
    processes there are, nor on how often gradients are accumulated.

    Args:
        fill: draws an empty tensor full, on its device, e.g. ``Tensor.normal_``.
    """
    part = _SHARD.get()
    if part is None or part.whole:
        return fill(torch.empty_like(like))
    assert len(like) == part.stop - part.start, f"{len(like)} rows are not those of {part}"
    empty = torch.empty_like(like)
    shape = (part.total, *like.shape[1:])
    if like.dim() and empty.stride(0) == like[0].numel():  # the same layout, for more images
        whole = torch.empty_strided(shape, empty.stride(), dtype=like.dtype, device=like.device)
    else:
        whole = like.new_empty(shape)
    return fill(whole)[part.start : part.stop]


@torch.no_grad()
def mean_and_std(
    values: Tensor, dims: tuple[int, ...], *, correction: int = 0, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ``values`` over ``dims``, whose rows (dimension 0) are those of all processes."""
    assert 0 in dims
    if world_size() == 1:
        return values.mean(dims, keepdim=keepdim), values.std(dims, correction=correction, keepdim=keepdim)
    wide = values.double()
    count = all_reduce_sum(wide.new_tensor(math.prod(values.shape[dim] for dim in dims)))
    mean = all_reduce_sum(wide.sum(dims, keepdim=True)) / count
    deviation = (all_reduce_sum((wide - mean).square().sum(dims, keepdim=True)) / (count - correction)).sqrt()
    found = [each if keepdim else each.squeeze(dims) for each in (mean, deviation)]
    return found[0].to(values.dtype), found[1].to(values.dtype)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of what every process has; ``values`` itself where there is one. In place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _AllReduceSum(torch.autograd.Function):
    """``all_reduce_sum``, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def mean_over_batch(mean: Tensor) -> Tensor:
    """The mean over the whole batch of what has ``mean`` over this process's images, with its gradient.

    For losses that are not means over images themselves, such as the square of one. Gradients accumulated over parts
    of a batch are then those of the parts' own means.
    """
    part = _SHARD.get()
    if world_size() == 1 or part is None:
        return mean
    here = torch.tensor(float(part.stop - part.start), dtype=torch.float64, device=mean.device)
    share = here / all_reduce_sum(here.clone())
    total: Tensor = _AllReduceSum.apply(mean * share.to(mean.dtype))
    return total


def all_reduce_means(figures: Mapping[str, float], weight: float) -> dict[str, float]:
    """Figures averaged over processes; the ``weight`` of this one's, all of which sum to 1."""
    if world_size() == 1:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64) * weight
    return dict(zip(figures, all_reduce_sum(values).tolist(), strict=True))


def broadcast(value: T) -> T:
    """What the leader has, on all processes; it must pickle."""
    return _broadcast_from(value, 0) if world_size() > 1 else value


def gather(value: T) -> list[T]:
    """What every process has, by rank, on all of them."""
    return [_broadcast_from(value, source) for source in range(world_size())] if world_size() > 1 else [value]


def _broadcast_from(value: T, source: int) -> T:
    """``value`` of process ``source``; tensors arrive on the device that they left, which should be the CPU."""
    mine = dist.get_rank() == source
    buffer = io.BytesIO()
    if mine:
        torch.save(value, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, source)
    data = np.frombuffer(buffer.getbuffer(), np.uint8) if mine else np.empty(int(size), np.uint8)
    for start in range(0, len(data), _PIECE):
        piece = torch.from_numpy(data[start : start + _PIECE].copy() if mine else data[start : start + _PIECE])
        dist.broadcast(piece, source)
    if mine:
        return value
    found: T = torch.load(io.BytesIO(data.tobytes()), weights_only=False)  # it comes from our own process
    return found


def on_leader(work: Callable[[], T]) -> T:
    """What ``work`` gives the leader, which does it alone while the others wait; random numbers go on as its own."""
    if world_size() == 1:
        return work()
    found: list[T] = []
    if rank() == 0:
        with single_process():
            found.append(work())
    (value,) = broadcast(found)
    sync_random_state()
    return value


def shutdown() -> None:
    """The end of working together: nothing is said to other processes any more."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def sync_random_state() -> None:
    """Let all processes draw the numbers that the leader would draw next."""
    if world_size() == 1:
        return
    here: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state, of_gpu = broadcast((torch.get_rng_state(), torch.cuda.get_rng_state() if here else None))
    torch.set_rng_state(state)
    if here and of_gpu is not None:
        torch.cuda.set_rng_state(of_gpu)


def check_same_on_all_ranks(what: str, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not the same, to the bit, in all processes.

    Raises:
        RunError: they differ; ``what`` they are of is named.
    """
    if world_size() == 1:
        return
    found = gather(checksum(state))
    if len(set(found)) > 1:
        raise RunError(
            f"{what}: the processes have come to different weights ({', '.join(key[:8] for key in found)}); run on "
            "machines of one kind with the same versions of torch, or in one process"
        )


def checksum(state: Mapping[str, Tensor]) -> str:
    """sha256 of tensors by name: content, type and shape."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
