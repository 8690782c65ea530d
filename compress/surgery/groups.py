"""Channel groups: the channels that can only go together, where they are, and what keeps others whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from .splits import CutWidth

View = Callable[[nn.Module, Tensor], Any]
"""Outputs through which the dependency graph sees a network: ``view(network, images)``."""


Convolution = nn.Conv2d | nn.ConvTranspose2d
"""Convolutions whose channels surgery removes."""


@dataclass(frozen=True)
class Slot:
    """Channel ``positions[k]`` of ``layer`` goes with channel ``sources[k]`` of the group."""

    layer: str
    positions: tuple[int, ...]
    sources: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only go together: the layers that produce them, and the layers that consume them.

    Depthwise convolutions and normalisations lie between the two and just follow (``followers``).

    ``channels`` counts what can go on its own. Where a grouped convolution takes part, that is a channel of each of
    its groups at once (all groups keep the same places): channel u of the group is then every channel of the layer it
    is named after whose number is u, modulo ``channels``.

    ``residual``: the outputs of layers are added here, as where blocks add to what they were given (a residual stream).
    """

    name: str
    channels: int
    producers: tuple[Slot, ...]
    consumers: tuple[Slot, ...]
    followers: tuple[Slot, ...]
    residual: bool = False


@dataclass(frozen=True)
class FrozenGroup:
    """A group that keeps all of its channels, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """The groups that may shrink and those that may not.

    ``widths``: attributes of modules that shrink with groups. ``by_index_maps``: read by ``follow_groups``, not from
    Torch-Pruning's graph.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenGroup, ...]
    widths: tuple[CutWidth, ...] = ()
    by_index_maps: bool = False

    def group(self, name: str) -> ChannelGroup:
        """The group called ``name``."""
        return next(group for group in self.groups if group.name == name)

    def without(self, reasons: dict[str, str]) -> ChannelGraph:
        """The same graph with the named groups frozen for the given reasons."""
        frozen = [FrozenGroup(g.name, g.channels, reasons[g.name]) for g in self.groups if g.name in reasons]
        kept = tuple(group for group in self.groups if group.name not in reasons)
        return replace(self, groups=kept, frozen=(*self.frozen, *frozen))


def group_slots(group: ChannelGroup) -> tuple[Slot, ...]:
    """All slots of a group: producers, followers, consumers."""
    return (*group.producers, *group.followers, *group.consumers)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution has one filter per channel (its channels go in and out together)."""
    return isinstance(layer, Convolution) and layer.groups == layer.in_channels == layer.out_channels > 1


def layer_width(layer: nn.Module) -> int:
    """Channels that a convolution or a linear layer puts out."""
    width = layer.out_channels if isinstance(layer, Convolution) else layer.out_features
    assert isinstance(width, int)
    return width


_FROZEN_NORM = ("weight", "bias", "running_mean", "running_var")


def is_frozen_norm(layer: nn.Module) -> bool:
    """Whether a layer is a batch normalisation made of buffers alone (``FrozenBatchNorm2d`` of detectors)."""
    buffers = dict(layer.named_buffers(recurse=False))
    if any(True for _ in layer.parameters(recurse=False)) or not set(_FROZEN_NORM) <= buffers.keys():
        return False
    return len({buffers[name].shape for name in _FROZEN_NORM}) == 1
