"""What goes between processes while they learn, counted.

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
from .fabric import LearningFabric


class Traffic:
    """Bytes of gradients that this process gives to be averaged with those of the others, since it was last reset."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, model: DistributedDataParallel) -> None:
        """From now on count what ``model`` sends: all that its backward passes do."""
        model.register_comm_hook(self, _counted)


def _counted(traffic: Traffic, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    traffic.bytes += bucket.buffer().nbytes
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: the group of all processes


Loss = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


class SharedStep:
    """A model and its optimizer as all processes see them; gradients become those of the mean loss of whole batches.

    Every process draws the same random numbers and computes its own rows (see ``distributed.per_image``). Only
    gradients of what is learned are sent: 4 bytes for each number of it in float32.
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
            assert isinstance(inner, DistributedDataParallel), "make_fabric was told of the other processes"
            self.traffic.count(inner)
        sync_random_state()

    def batches(self, source: BatchSource, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """For every batch of an epoch, without the first ``start``, the parts that this process computes.

        Raises:
            DataError: a batch has fewer images than there are parts.
        """
        if not self._shares:
            yield from ([batch] for batch in source.epoch(epoch, start))
            return
        if source.batch_size < self.processes * self.accumulate:
            raise DataError(
                f"a batch of {source.batch_size} images cannot be shared by {self.processes} processes in "
                f"{self.accumulate} parts each: raise batch_size (or give more images), or take fewer of them"
            )
        parts = source.epoch(epoch, start, sharding=shard_rows(rank(), self.processes, self.accumulate))
        while batch := list(itertools.islice(parts, self.accumulate)):
            yield batch

    def backward(self, parts: list[Batch], loss: Loss) -> Mapping[str, Tensor]:
        """Gradients of the whole batch's mean ``loss(model, batch)["loss"]``; its figures, means over the batch too.

        Args:
            parts: one item of ``batches``.
        """
        self.traffic.bytes = 0
        device = self._fabric.device
        if not self._shares:
            with self._fabric.autocast():
                figures = loss(self._wrapped, to_device(parts[0], device))
            self._fabric.backward(figures["loss"])
            return figures
        start = _random(device) if len(parts) > 1 else []
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(parts):
            if number:  # what is drawn once for a batch must be the same in all its parts
                _restore(start, device)
            share = 1.0 if batch.part is None else batch.part.share
            with computing_shard(batch.part), self._joined(), self._unsent(number + 1 < len(parts)):
                with self._fabric.autocast():
                    figures = loss(self._wrapped, to_device(batch, device))
                self._fabric.backward(figures["loss"] * (share * self.processes))  # they are averaged
            for name, value in figures.items():
                value = value.detach().double() * share
                totals[name] = totals[name] + value if name in totals else value
        every = all_reduce_sum(torch.stack([value.to(device) for value in totals.values()]))
        return dict(zip(totals, every.unbind(), strict=True))

    def _joined(self) -> AbstractContextManager[object]:
        """Batch statistics and dropout of the whole batch, if there is any."""
        learning = any(module.training for module in self._model.modules())
        return GlobalBatch() if learning else nullcontext()

    def _unsent(self, wanted: bool) -> AbstractContextManager[object]:
        if self.processes == 1:
            return nullcontext()
        context: AbstractContextManager[object] = self._fabric.no_backward_sync(self._wrapped, enabled=wanted)
        return context


def _random(device: torch.device) -> list[Tensor]:
    """The states of the generators that a step may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
