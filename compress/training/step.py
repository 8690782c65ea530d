"""One optimisation step across processes and gradient accumulation, and a count of the gradient bytes sent.

No ``from __future__ import annotations`` here: DDP reads the hook's annotations, which must not be strings.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch makes it public only where built so
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..data import Batch, BatchSource, shard_rows
from ..errors import DataError
from ..parallel.global_batch import GlobalBatch
from ..parallel.processes import all_reduce_sum, computing_shard, rank, sync_random_state, world_size
from .evaluate import to_device
from .learning import LearningFabric

Loss = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


class SharedStep:
    """A model and optimizer set up for all processes; gradients are those of the mean loss over complete batches.

    All processes draw the same random numbers and compute their own rows (see ``random_per_image``). Only gradients of
    trainable parameters are sent: 4 bytes per number in float32.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, fabric: Fabric) -> None:
        self.processes = world_size()
        self.accumulate = fabric.accumulate if isinstance(fabric, LearningFabric) else 1
        self.traffic = Traffic()
        """Of the last step."""
        self._fabric, self._model = fabric, model
        self._wrapped, self.optimizer = fabric.setup(model, optimizer)
        self._shares = self.processes > 1 or self.accumulate > 1
        if self.processes > 1:
            inner = self._wrapped._forward_module
            assert isinstance(inner, DistributedDataParallel), "make_fabric(together=True) sets up DDP"
            self.traffic.count(inner)
        sync_random_state()

    def batches(self, source: BatchSource, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The parts of each batch that this process computes, from batch ``start`` of the epoch on.

        Raises:
            DataError: a batch has fewer images than there are parts.
        """
        if not self._shares:
            yield from ([batch] for batch in source.epoch(epoch, start))
            return
        if source.batch_size < self.processes * self.accumulate:
            raise DataError(
                f"a batch of {source.batch_size} images cannot be shared by {self.processes} processes in "
                f"{self.accumulate} parts each: raise batch_size (or give more images), or use fewer processes or parts"
            )
        parts = source.epoch(epoch, start, sharding=shard_rows(rank(), self.processes, self.accumulate))
        while batch := list(itertools.islice(parts, self.accumulate)):
            yield batch

    def backward(self, parts: list[Batch], loss: Loss) -> Mapping[str, Tensor]:
        """Compute the gradients of the mean ``loss(model, batch)["loss"]`` over the complete batch.

        Args:
            parts: one item of ``batches``.

        Returns:
            The loss's figures, means over the complete batch.
        """
        self.traffic.bytes = 0
        device = self._fabric.device
        if not self._shares:
            with self._fabric.autocast():
                figures = loss(self._wrapped, to_device(parts[0], device))
            self._fabric.backward(figures["loss"])
            return figures
        start = _random_states(device) if len(parts) > 1 else []
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(parts):
            if number:  # random numbers drawn once per batch must be the same in all its parts
                _set_random_states(start, device)
            share = 1.0 if batch.part is None else batch.part.share
            with computing_shard(batch.part), self._global_batch(), self._no_sync(number + 1 < len(parts)):
                with self._fabric.autocast():
                    figures = loss(self._wrapped, to_device(batch, device))
                self._fabric.backward(figures["loss"] * (share * self.processes))  # DDP averages gradients
            for name, value in figures.items():
                value = value.detach().double() * share
                totals[name] = totals[name] + value if name in totals else value
        means = all_reduce_sum(torch.stack([value.to(device) for value in totals.values()]))
        return dict(zip(totals, means.unbind(), strict=True))

    def _global_batch(self) -> AbstractContextManager[object]:
        """Context: batch statistics and dropout of the complete batch, if a module is in training mode."""
        training = any(module.training for module in self._model.modules())
        return GlobalBatch() if training else nullcontext()

    def _no_sync(self, enabled: bool) -> AbstractContextManager[object]:
        """Context: gradients are accumulated locally, not sent."""
        if self.processes == 1:
            return nullcontext()
        context: AbstractContextManager[object] = self._fabric.no_backward_sync(self._wrapped, enabled=enabled)
        return context


class Traffic:
    """Counter of the gradient bytes that this process sends to all-reduce, since it was last reset."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, model: DistributedDataParallel) -> None:
        """Start counting the bytes sent by the backward passes of ``model``."""
        model.register_comm_hook(self, _counting_allreduce)


def _counting_allreduce(traffic: Traffic, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    traffic.bytes += bucket.buffer().nbytes
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: the group of all processes


def _random_states(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that a step may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
