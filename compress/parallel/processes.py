"""Splits a batch across ranks and synchronises the results.

Without a process group (see ``make_fabric``), and inside ``single_process``, the world size is 1.
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

_BROADCAST_BYTES = 2**28
"""Bytes per broadcast: backends count in 32 bits."""

_SINGLE_PROCESS: ContextVar[bool] = ContextVar("single_process", default=False)


class ShardSlice(NamedTuple):
    """Rows ``start`` to ``stop`` of a batch of ``total``: the part that a process computes at a time."""

    start: int
    stop: int
    total: int

    @property
    def whole(self) -> bool:
        """Whether it is the complete batch."""
        return self.stop - self.start == self.total

    @property
    def share(self) -> float:
        """Its weight in a mean over the batch."""
        return (self.stop - self.start) / self.total


_SHARD: ContextVar[ShardSlice | None] = ContextVar("shard", default=None)


def world_size() -> int:
    """Number of cooperating processes; 1 inside ``single_process``."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Rank of this process; 0 is the leader."""
    return dist.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and not _SINGLE_PROCESS.get()


@contextmanager
def single_process() -> Iterator[None]:
    """Context: this process works as if it were the only one."""
    token = _SINGLE_PROCESS.set(True)
    try:
        yield
    finally:
        _SINGLE_PROCESS.reset(token)


@contextmanager
def distributed() -> Iterator[None]:
    """Context: undoes ``single_process``."""
    token = _SINGLE_PROCESS.set(False)
    try:
        yield
    finally:
        _SINGLE_PROCESS.reset(token)


def even_slice(count: int, number: int, of: int) -> slice:
    """Slice ``number`` of ``of`` contiguous slices of ``count`` items; their sizes differ by at most one."""
    return slice(count * number // of, count * (number + 1) // of)


@contextmanager
def computing_shard(part: ShardSlice | None) -> Iterator[None]:
    """Context: networks and losses compute ``part`` of a batch; see ``random_per_image`` and ``mean_over_batch``."""
    token = _SHARD.set(part)
    try:
        yield
    finally:
        _SHARD.reset(token)


def current_shard() -> ShardSlice | None:
    """The part of a batch being computed; None outside a training step."""
    return _SHARD.get()


def random_per_image(like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Random numbers like ``like`` (N, ...): drawn for the complete batch, of which this part's rows are returned.

    All processes draw the same and keep their rows, so that an image's random numbers do not depend on the number of
    processes or on gradient accumulation.

    Args:
        fill: fills an empty tensor with random numbers in place, e.g. ``Tensor.normal_``.
    """
    part = _SHARD.get()
    if part is None or part.whole:
        return fill(torch.empty_like(like))
    assert len(like) == part.stop - part.start, f"{len(like)} rows are not those of {part}"
    empty = torch.empty_like(like)
    shape = (part.total, *like.shape[1:])
    if like.dim() and empty.stride(0) == like[0].numel():  # the same layout, for more images
        batch = torch.empty_strided(shape, empty.stride(), dtype=like.dtype, device=like.device)
    else:
        batch = like.new_empty(shape)
    return fill(batch)[part.start : part.stop]


@torch.no_grad()
def mean_and_std(
    values: Tensor, dims: tuple[int, ...], *, correction: int = 0, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over ``dims`` of all processes' ``values``, concatenated along dimension 0."""
    assert 0 in dims
    if world_size() == 1:
        return values.mean(dims, keepdim=keepdim), values.std(dims, correction=correction, keepdim=keepdim)
    wide = values.double()
    count = all_reduce_sum(wide.new_tensor(math.prod(values.shape[dim] for dim in dims)))
    mean = all_reduce_sum(wide.sum(dims, keepdim=True)) / count
    deviation = (all_reduce_sum((wide - mean).square().sum(dims, keepdim=True)) / (count - correction)).sqrt()
    if not keepdim:
        mean, deviation = mean.squeeze(dims), deviation.squeeze(dims)
    return mean.to(values.dtype), deviation.to(values.dtype)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum ``values`` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _AllReduceSum(torch.autograd.Function):
    """Differentiable ``all_reduce_sum``: its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def mean_over_batch(mean: Tensor) -> Tensor:
    """The mean over all processes' images, differentiable, from ``mean`` over this process's.

    For losses that are not means over images, such as the square of one. With gradient accumulation it is the mean
    over the current part of the batch.
    """
    part = _SHARD.get()
    if world_size() == 1 or part is None:
        return mean
    here = torch.tensor(float(part.stop - part.start), dtype=torch.float64, device=mean.device)
    share = here / all_reduce_sum(here.clone())
    total: Tensor = _AllReduceSum.apply(mean * share.to(mean.dtype))
    return total


def all_reduce_means(figures: Mapping[str, float], weight: float) -> dict[str, float]:
    """Figures averaged over processes with their ``weight``; the weights of all sum to 1."""
    if world_size() == 1:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64) * weight
    return dict(zip(figures, all_reduce_sum(values).tolist(), strict=True))


def broadcast(value: T) -> T:
    """The leader's ``value`` (picklable), on all processes."""
    return _broadcast_from(value, 0) if world_size() > 1 else value


def gather(value: T) -> list[T]:
    """The values of all processes, by rank, on all processes."""
    return [_broadcast_from(value, source) for source in range(world_size())] if world_size() > 1 else [value]


def _broadcast_from(value: T, source: int) -> T:
    """``value`` of rank ``source``; its tensors should be on the CPU, as they keep their device."""
    is_source = dist.get_rank() == source
    buffer = io.BytesIO()
    if is_source:
        torch.save(value, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, source)
    data = np.frombuffer(buffer.getbuffer(), np.uint8) if is_source else np.empty(int(size), np.uint8)
    for start in range(0, len(data), _BROADCAST_BYTES):
        piece = data[start : start + _BROADCAST_BYTES]
        dist.broadcast(torch.from_numpy(piece.copy() if is_source else piece), source)
    if is_source:
        return value
    received: T = torch.load(io.BytesIO(data.tobytes()), weights_only=False)  # trusted: sent by our own process
    return received


def on_leader(work: Callable[[], T]) -> T:
    """The result of ``work``, run by the leader while the others wait; its random state is then synchronised."""
    if world_size() == 1:
        return work()
    results: list[T] = []
    if rank() == 0:
        with single_process():
            results.append(work())
    (value,) = broadcast(results)
    sync_random_state()
    return value


def shutdown() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def sync_random_state() -> None:
    """Copy the leader's random state to all processes."""
    if world_size() == 1:
        return
    on_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state, gpu_state = broadcast((torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None))
    torch.set_rng_state(state)
    if on_gpu and gpu_state is not None:
        torch.cuda.set_rng_state(gpu_state)


def check_same_on_all_ranks(what: str, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that differ between processes.

    Raises:
        RunError: they are not equal to the bit; the message names ``what`` they belong to.
    """
    if world_size() == 1:
        return
    sums = gather(checksum(state))
    if len(set(sums)) > 1:
        raise RunError(
            f"{what}: the processes computed different weights (checksums {', '.join(key[:8] for key in sums)}); run "
            "on machines of one kind with the same version of torch, or in one process"
        )


def checksum(state: Mapping[str, Tensor]) -> str:
    """sha256 of named tensors: names, contents, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
