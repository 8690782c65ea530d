"""Statistics of batch normalisation while gates close: of each batch, or running ones taken anew as the gates move.

With the statistics of the original (ISP: normalisation in eval mode) the gates are learned in a network whose
normalisations no longer fit its activations; the slim model that is deployed gets statistics of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import BatchSource
from ..models.fold import FoldPair, folded_parameters
from ..training import to_device
from ..training.batch_norm import take_statistics_, tracked_norms

REFRESH_EVERY: Final = 10
"""Steps between two refreshes: each is a forward pass of one batch, without gradients, of the network not folded."""

REFRESH_MOMENTUM: Final = 0.3
"""Weight of the new batch's statistics: with noise each sample of the gates has statistics of its own."""

REFRESH_IMAGES: Final = 256
"""Images that refreshes take turns with, about; held in memory."""


def use_batch_statistics_(network: nn.Module) -> list[_BatchNorm]:
    """Make every batch normalisation of ``network`` normalise by its batch, in eval mode too; returns those changed."""
    norms = list(tracked_norms(network).values())
    for norm in norms:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return norms


class NormRefresh:
    """Keeps the statistics of a gated network's normalisations up to date, folded or not.

    Args:
        plain: the classifier with nothing folded.
        folded: the one that learns, with ``pairs`` folded; names of ``pairs`` are those of both.
        run: computes ``plain`` at a sample of the gates: (factors, logs, images, labels).
        draw: gives ``factors`` and ``logs`` of one sample of the gates.
        train: batches; some are held in memory.
    """

    def __init__(
        self,
        plain: nn.Module,
        folded: nn.Module,
        pairs: Sequence[FoldPair],
        run: nn.Module,
        draw: Callable[[], tuple[Tensor, Tensor]],
        train: BatchSource,
    ) -> None:
        self._plain, self._folded, self._run, self._draw = plain, folded, run, draw
        self._norms = tracked_norms(plain)
        self._pairs = [pair for pair in pairs if pair.norm in self._norms]
        count = max(1, min(len(train), REFRESH_IMAGES // train.batch_size))
        with torch.random.fork_rng():  # a user's loader may draw its order here
            self._batches = list(itertools.islice(train.epoch(0), count))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take part of the statistics anew if a refresh is due after ``step``."""
        if (step + 1) % REFRESH_EVERY or not self._norms:
            return
        device = next(self._plain.parameters()).device
        batch = to_device(self._batches[(step + 1) // REFRESH_EVERY % len(self._batches)], device)
        factors, logs = self._draw()
        old = {
            name: (_tensor(n.running_mean).clone(), _tensor(n.running_var).clone()) for name, n in self._norms.items()
        }
        take_statistics_(_AtGates(self._run, factors, logs), self._norms, [batch.images])
        for name, norm in self._norms.items():
            for new, before in zip((norm.running_mean, norm.running_var), old[name], strict=True):
                _tensor(new).copy_(before.lerp(_tensor(new), REFRESH_MOMENTUM))
        self._transfer()

    def _transfer(self) -> None:
        """Give the statistics to the fast twin, in place: its compiled form goes on with them."""
        sources, targets = dict(self._plain.named_modules()), dict(self._folded.named_modules())
        for pair in self._pairs:
            weight, bias = folded_parameters(sources[pair.producer], sources[pair.norm])
            _tensor(targets[pair.producer].weight).copy_(weight)
            _tensor(targets[pair.producer].bias).copy_(bias)
        for name in self._norms.keys() - {pair.norm for pair in self._pairs}:
            source, target = self._norms[name], targets[name]
            _tensor(target.running_mean).copy_(_tensor(source.running_mean))
            _tensor(target.running_var).copy_(_tensor(source.running_var))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            name: [_tensor(norm.running_mean).clone(), _tensor(norm.running_var).clone()]
            for name, norm in self._norms.items()
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from ``state_dict``."""
        for name, (mean, variance) in state.items():
            _tensor(self._norms[name].running_mean).copy_(mean)
            _tensor(self._norms[name].running_var).copy_(variance)
        self._transfer()


class _AtGates(nn.Module):
    """A gated classifier at one sample of its gates, as a function of images alone."""

    def __init__(self, gated: nn.Module, factors: Tensor, logs: Tensor) -> None:
        super().__init__()
        self.gated = gated
        self._factors, self._logs = factors, logs

    def forward(self, images: Tensor) -> Any:
        return self.gated(self._factors, self._logs, images, images.new_zeros(len(images), dtype=torch.int64))


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
