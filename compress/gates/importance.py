"""Rankings of channels by Torch-Pruning's importances, for the same selection, surgery and finetuning as learned gates.

An importance sums a value over all weights of a channel, in every layer that produces or reads it (Fang et al., CVPR
2023, "DepGraph"), and is divided by the mean of its group, so that one threshold serves groups of any scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F
from torch_pruning._helpers import GroupItem

from ..data import BatchSource
from ..surgery import ChannelGroup, Slot
from ..training import Learning, to_device

GRADIENT_IMAGES: Final = 512
"""Images whose mean gradient ``taylor`` reads."""

IMPORTANCES: Final[dict[str, Callable[..., Any]]] = {
    "taylor": tp.importance.GroupTaylorImportance,
    "fpgm": tp.importance.FPGMImportance,
    "bn_scale": tp.importance.BNScaleImportance,
    "lamp": tp.importance.LAMPImportance,
    "random": tp.importance.RandomImportance,
}
"""Names of rankings -> Torch-Pruning's classes."""


def needs_gradients(ranking: str) -> bool:
    """Whether a ranking of ``IMPORTANCES`` reads the gradients of the loss."""
    return ranking == "taylor"


@dataclass(frozen=True)
class _Target:
    module: nn.Module


@dataclass(frozen=True)
class _Dependency:
    """What Torch-Pruning's importances read of a dependency, under both of the names that they use."""

    layer: nn.Module
    pruning_fn: Callable[..., Any]

    @property
    def target(self) -> _Target:
        return _Target(self.layer)

    @property
    def handler(self) -> Callable[..., Any]:
        return self.pruning_fn


def importances(network: nn.Module, groups: Sequence[ChannelGroup], ranking: str) -> dict[str, Tensor]:
    """(channels,) scores of every group by the importance called ``ranking``; the mean over a group is 1.

    A group in which the importance finds nothing to read (``bn_scale`` where nothing is normalised) gets 1 everywhere.

    Args:
        network: with gradients in its parameters where the ranking reads them (``add_gradients_``).
    """
    layers = dict(network.named_modules())
    return {group.name: _importance(layers, group, ranking) for group in groups}


def _importance(layers: dict[str, nn.Module], group: ChannelGroup, ranking: str) -> Tensor:
    slots = [
        *((slot, True) for slot in group.producers),
        *((slot, False) for slot in group.consumers if ranking != "fpgm" or not _is_grouped(layers[slot.layer])),
        *((slot, True) for slot in group.followers),
    ]
    items = [_to_item(layers[slot.layer], slot, out=out) for slot, out in slots]
    # A producer of all channels comes first: Torch-Pruning takes the number of channels from it.
    items.insert(0, items.pop(max(range(len(group.producers)), key=lambda k: len(set(items[k].root_idxs)))))
    score = IMPORTANCES[ranking]()(items)
    if score is None:
        return torch.ones(group.channels, dtype=torch.float64)
    own: Tensor = score[: group.channels].detach().double().cpu()
    return own / own.mean().clamp_min(1e-12)


def _is_grouped(layer: nn.Module) -> bool:
    """Torch-Pruning's FPGM fails at the input side of grouped convolutions: it is left out there."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _to_item(layer: nn.Module, slot: Slot, *, out: bool) -> Any:
    pruner = tp.PrunerBox[tp.ops.module2type(layer)]
    prune = pruner.prune_out_channels if out else pruner.prune_in_channels
    pairs = sorted(zip(slot.positions, slot.sources, strict=True))  # Torch-Pruning sorts the positions alone
    item = GroupItem(_Dependency(layer, prune), [position for position, _ in pairs])
    item.root_idxs = [source for _, source in pairs]
    return item


def add_gradients_(network: nn.Module, train: BatchSource, learning: Learning, images: int = GRADIENT_IMAGES) -> int:
    """Add the gradients of the mean cross entropy over ``images`` training images to ``network``'s parameters.

    Batch normalisation uses its running statistics. Returns the number of images that were read: at most one batch
    more than asked for, and fewer where there are no more.
    """
    network.eval().requires_grad_(True).to(learning.device)
    network.zero_grad()
    seen = 0
    for batch in train.epoch(0):
        moved = to_device(batch, learning.device)
        logits = network(moved.images).float()
        torch.autograd.backward(F.cross_entropy(logits, moved.labels, reduction="sum"))
        seen += len(moved.labels)
        if seen >= images:
            break
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad /= seen
    return seen
