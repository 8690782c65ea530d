"""Statistics of batch normalisation: exact averages over images, the better of two sets, running ones that follow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ..data import BatchSource, round_robin
from ..errors import DataError
from ..modes import eval_mode
from ..parallel.processes import all_reduce_sum, rank, world_size
from .evaluate import Score, evaluate, to_device

START_LEFT = 0.01
"""Share of the statistics at the start that running ones may still hold at the end of a training."""


def tracked_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """By name, the batch normalisations of any dimension (``SyncBatchNorm`` too) that keep running statistics.

    Those without are normalised by each batch; frozen ones, such as torchvision's ``FrozenBatchNorm2d``, are of another
    class: neither has statistics that training would move.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


def recalibrate_bn(model: nn.Module, batches: BatchSource, count: int) -> int:
    """Replace the running statistics of every batch normalisation by exact averages over ``count`` batches.

    Returns:
        The number of batch normalisations with new statistics, the same in all processes.

    Raises:
        DataError: see ``take_statistics_``.
    """
    if count == 0:
        return 0
    device = _any_tensor(model).device
    processes = world_size()
    # Each process takes its own batches, unsplit, so that every statistic is of a full batch.
    own = batches.epoch(0, sharding=round_robin(rank(), processes))
    mine = itertools.islice(own, len(range(rank(), count, processes)))
    return take_statistics_(model, tracked_norms(model), (to_device(batch, device).images for batch in mine))


@torch.no_grad()
def take_statistics_(model: nn.Module, norms: Mapping[str, _BatchNorm], batches: Iterable[Tensor]) -> int:
    """Set the running statistics of ``norms`` to the averages of their batch statistics, over all processes.

    ``model`` is in eval mode meanwhile, in which ``norms`` alone use the statistics of the batch: with dropout the
    averages would not be those of the deployed network. No momentum is touched; statistics that no batch reaches stay.

    Args:
        norms: by name, of ``tracked_norms``.
        batches: images (N, 3, H, W) of this process.

    Returns:
        The number of norms with new statistics.

    Raises:
        DataError: a norm gets one value per channel, or its statistics are not finite; all keep theirs.
    """
    if not norms:
        return 0
    like = _any_tensor(model)
    taking = BatchStatistics(norms)
    with eval_mode(model), taking:
        for images in batches:
            model(images.to(like.device, like.dtype).contiguous(memory_format=torch.channels_last))
    return taking.set_()


class BatchStatistics(TorchFunctionMode):
    """Context: the batch normalisations ``norms`` use the statistics of their batch, which are summed up.

    Overrides ``torch.nn.functional.batch_norm``, which all classes of batch normalisation call in eval mode, with their
    running statistics: ``SyncBatchNorm``, whose training mode would wait for other processes, and a user's own as well.
    """

    def __init__(self, norms: Mapping[str, _BatchNorm]) -> None:
        super().__init__()
        self._norms = norms
        self._names = {id(norm.running_mean): name for name, norm in norms.items()}
        self._sums = {name: self._empty(norm) for name, norm in norms.items()}

    @staticmethod
    def _empty(norm: _BatchNorm) -> Tensor:
        """Sums of means and of variances, and the number of batches: (2 channels + 1,) float64."""
        assert norm.running_mean is not None
        return torch.zeros(2 * len(norm.running_mean) + 1, dtype=torch.float64, device=norm.running_mean.device)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        name = self._names.get(id(running_mean))
        if name is None or running_mean is None or running_var is None:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        if input.numel() == input.shape[1]:
            raise DataError(
                f"batch normalisation '{name}' gets one value per channel from a batch of {len(input)}, which has no "
                "variance: give batches of 2 images or more (drop_last=True leaves out a smaller last one)"
            )
        mean, variance = torch.zeros_like(running_mean), torch.zeros_like(running_var)
        # With momentum 1 they become those of the batch; the variance is the unbiased one, as in training.
        normalised = F.batch_norm(input, mean, variance, weight, bias, True, 1.0, eps)
        self._sums[name] += torch.cat([mean.double(), variance.double(), mean.new_ones(1, dtype=torch.float64)])
        return normalised

    def set_(self) -> int:
        """Set the running statistics to the averages over all processes; returns how many norms have new ones."""
        new: list[tuple[_BatchNorm, Tensor, Tensor, Tensor]] = []
        for name, norm in self._norms.items():
            total = all_reduce_sum(self._sums[name])
            count = total[-1]
            if not count:
                continue
            mean, variance = (total[:-1] / count).chunk(2)
            if not (mean.isfinite().all() and variance.isfinite().all()):
                raise DataError(
                    f"the statistics of batch normalisation '{name}' are NaN or infinite on these images: look for "
                    "such values in the images, or in the weights in front of it"
                )
            new.append((norm, mean, variance, count))
        for norm, mean, variance, count in new:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
        return len(new)


def _any_tensor(model: nn.Module) -> Tensor:
    """A floating-point parameter or buffer, whose device and dtype are those of the model's input."""
    tensors = itertools.chain(model.parameters(), model.buffers(), [torch.empty(0)])
    return next(tensor for tensor in tensors if tensor.is_floating_point())


@dataclass(frozen=True)
class StatisticsScores:
    """Scores on validation images with the statistics that training left and with exact ones, and which were kept.

    ``recalibrated`` is None where there are none: no batch normalisation, or no batches.
    """

    running: Score
    recalibrated: Score | None

    @property
    def kept(self) -> Literal["running", "recalibrated"]:
        """The more accurate, at equal accuracy the one of lower loss; exact ones where both are equal."""
        if self.recalibrated is None:
            return "running"
        exact, running = self.recalibrated, self.running
        return "recalibrated" if (exact.accuracy, -exact.loss) >= (running.accuracy, -running.loss) else "running"

    @property
    def better(self) -> Score:
        """The score of those that were kept."""
        return self.running if self.recalibrated is None or self.kept == "running" else self.recalibrated


def keep_better_statistics_(
    model: nn.Module, batches: BatchSource, count: int, validation: BatchSource
) -> StatisticsScores:
    """Recalibrate ``model`` on ``count`` batches, and take that back if its validation is worse then.

    All processes decide alike: they have the same statistics and scores, to the bit.
    """
    norms = tracked_norms(model)
    before = {name: {key: value.clone() for key, value in norm.named_buffers()} for name, norm in norms.items()}
    running = evaluate(model, validation)
    if not recalibrate_bn(model, batches, count):
        return StatisticsScores(running, None)
    scores = StatisticsScores(running, evaluate(model, validation))
    if scores.kept == "running":
        for name, norm in norms.items():
            for key, value in norm.named_buffers():
                value.copy_(before[name][key])
    return scores


@contextmanager
def following_statistics(model: nn.Module, updates: int) -> Iterator[float | None]:
    """Context: running statistics follow a training of ``updates`` batches; each norm has its momentum back after it.

    After n updates with momentum m a running statistic still holds (1 - m)^n of what it was at the start. Where that is
    more than ``START_LEFT`` (m = .01: below 459 updates), or the momentum is None (an average of all batches since the
    start, those of early weights included), the momentum is 1 - START_LEFT^(1/n) meanwhile: the lowest that leaves no
    more. The weights learned are the same, as training normalises by the statistics of the batch.

    Yields:
        The momentum that was given; None: all norms follow with their own.
    """
    norms = list(tracked_norms(model).values()) if updates else []
    slow = [norm for norm in norms if norm.momentum is None or (1 - norm.momentum) ** updates > START_LEFT]
    own = [norm.momentum for norm in slow]
    raised = 1 - START_LEFT ** (1 / updates) if slow else None
    for norm in slow:
        norm.momentum = raised
    try:
        yield raised
    finally:
        for norm, momentum in zip(slow, own, strict=True):
            norm.momentum = momentum
