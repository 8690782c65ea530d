"""Channel groups of any network by index maps: for what Torch-Pruning's graph does not follow (see ``index_maps``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..modes import eval_mode
from ..outputs import name_tensors
from .groups import ChannelGraph, ChannelGroup, Convolution, FrozenGroup, Slot, View, is_depthwise, is_frozen_norm
from .index_maps import IndexMaps
from .index_rules import rule_of
from .shared import shared_layers
from .splits import CutWidth

_FOLLOWERS = _BatchNorm | nn.InstanceNorm2d | nn.PReLU
_LAYERS = (*Convolution.__args__, nn.Linear, _BatchNorm, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm, nn.PReLU)


@dataclass
class _Read:
    """What a pass over a network told: numbers of the input and output channels of its layers, by name."""

    maps: IndexMaps
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    followers: dict[str, Tensor] = field(default_factory=dict)


def follow_groups(network: nn.Module, example: Tensor, *, prefix: str = "", view: View | None = None) -> ChannelGraph:
    """The channel groups rooted below ``prefix``, as ``trace_groups`` gives them; nothing is proven yet.

    Args:
        example: (1, C, H, W) images.
        view: see ``View``; all outputs of the network when absent.
    """
    read = _read(network, example, view)
    modules = dict(network.named_modules())
    for name, reason in shared_layers(network, example).items():
        for labels in (side[name] for side in (read.inputs, read.outputs, read.followers) if name in side):
            read.maps.labels.freeze(labels, reason)
    units, reasons = read.maps.labels.resolve()
    groups, frozen = _Grouping(read, units, reasons, prefix).group(modules)
    return ChannelGraph(tuple(groups), tuple(frozen), _widths(read, units, groups), by_index_maps=True)


class _Watch:
    """Hooks of a pass: labels the outputs of layers whose channels surgery removes, and pauses the map meanwhile."""

    def __init__(self, read: _Read, names: dict[nn.Module, str]) -> None:
        self.read, self.names = read, names

    def enter(self, module: nn.Module, args: Any) -> None:
        maps = self.read.maps
        if not maps.paused:
            maps.running.append(module)
        if maps.paused or self._is_layer(module, args):
            maps.paused += 1

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        maps = self.read.maps
        if maps.paused:
            if maps.paused == 1:
                self._label(module, args[0], output)
            maps.paused -= 1
        if not maps.paused:
            maps.running.pop()

    def _is_layer(self, module: nn.Module, args: Any) -> bool:
        if (
            not (isinstance(module, _LAYERS) or is_frozen_norm(module))
            or len(args) != 1
            or not isinstance(args[0], Tensor)
        ):
            return False
        least = 4 if isinstance(module, Convolution) else 2
        inner = any(True for child in module.children() for _ in child.parameters())
        return self.read.maps.of(args[0]) is not None and args[0].dim() >= least and not inner

    def _label(self, module: nn.Module, given: Tensor, output: Tensor) -> None:
        own = self.read.maps.of(given)
        assert own is not None
        name = self.names[module]
        if isinstance(module, Convolution):
            labels = self._of_convolution(module, name, own).reshape(1, -1, 1, 1)
        elif isinstance(module, nn.Linear):
            self._note(self.read.inputs, name, self._line(own, -1))
            labels = self._fresh(name, module.out_features)
        else:
            self._of_norm(module, name, own)
            labels = own
        self.read.maps.set(output, labels.expand(output.shape))

    def _of_convolution(self, layer: Any, name: str, own: Tensor) -> Tensor:
        """(C,) labels of the outputs."""
        line, tables = self._line(own, 1), self.read.maps.labels
        if layer.groups == layer.in_channels > 1 and (not layer.transposed or is_depthwise(layer)):
            labels = line.repeat_interleave(layer.out_channels // layer.in_channels)
            self._note(self.read.followers, name, labels)
            return labels
        self._note(self.read.inputs, name, line)
        labels = self._fresh(name, layer.out_channels)
        if layer.groups > 1 and layer.transposed:
            reason = (
                f"{type(layer).__name__} '{name}' has {layer.groups} groups: surgery removes channels of ungrouped "
            )
            for side in (line, labels):
                tables.freeze(side, reason + "and depthwise ones")
        elif layer.groups > 1:  # all groups keep the same places
            for side in (line, labels):
                tables.tie_along(side.reshape(layer.groups, -1), 0)
        return labels

    def _of_norm(self, module: nn.Module, name: str, own: Tensor) -> None:
        by_channel = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return
        if isinstance(module, _FOLLOWERS) or by_channel or is_frozen_norm(module):
            self._note(self.read.followers, name, self._line(own, 1))
            return
        reason = f"{type(module).__name__} '{name}' normalises several channels together"
        self.read.maps.labels.freeze(own, reason)

    def _line(self, labels: Tensor, dim: int) -> Tensor:
        """(channels,) labels along ``dim``; a channel is one in all other places."""
        dim %= labels.dim()
        for other in range(labels.dim()):
            if other != dim:
                self.read.maps.labels.tie_along(labels, other)
                labels = labels.narrow(other, 0, 1)
        return labels.reshape(-1)

    def _note(self, side: dict[str, Tensor], name: str, line: Tensor) -> None:
        """Note labels of a layer; a layer that runs again has the same channels."""
        self.read.maps.labels.tie(side.setdefault(name, line), line)

    def _fresh(self, name: str, channels: int) -> Tensor:
        if name not in self.read.outputs:
            self.read.outputs[name] = self.read.maps.labels.fresh(channels)
        return self.read.outputs[name]


def _read(network: nn.Module, example: Tensor, view: View | None) -> _Read:
    """Run ``network`` once in eval mode under index maps; its outputs freeze what they are made of."""
    names = {module: name for name, module in network.named_modules()}
    tensors = {id(tensor): name for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    maps = IndexMaps(example, names, tensors, rule_of)
    read = _Read(maps)
    watch = _Watch(read, names)
    handles = []
    for module in names:
        handles += [
            module.register_forward_pre_hook(watch.enter),
            module.register_forward_hook(watch.leave, always_call=True),
        ]
    try:
        with eval_mode(network), torch.no_grad(), maps:
            outputs = network(example) if view is None else view(network, example)
    finally:
        for handle in handles:
            handle.remove()
    named = name_tensors(outputs)
    for name, tensor in named.items():
        labels = maps.of(tensor)
        if labels is not None:
            which = f" '{name}'" if len(named) > 1 else ""
            maps.labels.freeze(labels, f"its channels are the network's output{which}")
    return read


class _Grouping:
    """Makes groups of units: roots are outputs of layers and parts of splits, narrow ones first."""

    def __init__(self, read: _Read, units: Any, reasons: dict[int, str], prefix: str) -> None:
        self.read, self.units, self.reasons, self.prefix = read, units, reasons, prefix
        self.seen: set[int] = set()
        self.adds = {int(u) for labels in read.maps.added for u in np.unique(units[labels.flatten().numpy()])}

    def group(self, modules: dict[str, nn.Module]) -> tuple[list[ChannelGroup], list[FrozenGroup]]:
        places = {name: place for place, name in enumerate(modules)}
        found: list[tuple[int, int, ChannelGroup | FrozenGroup]] = []
        for name, start, labels in sorted(self._roots(), key=lambda root: (len(root[2]), "[" in root[0])):
            line = self.units[labels.numpy()]
            members = [unit for unit in dict.fromkeys(line.tolist()) if unit not in self.seen]
            if not members:
                continue
            self.seen.update(members)
            layer = name.partition("[")[0]
            if set(self.units[self.read.outputs[layer].numpy()].tolist()) == set(members):
                name, line = layer, self.units[self.read.outputs[layer].numpy()]
            order = (places[layer], start)
            positions = [place for place, unit in enumerate(line.tolist()) if unit in set(members)]
            if len(positions) < len(line) and "[" not in name:
                name = f"{name}[{positions[0]}:{positions[-1] + 1}]"
            found.append((*order, self._to_group(name.removeprefix(self.prefix), members, len(positions))))
        found.sort(key=lambda item: item[:2])
        groups = [item[2] for item in found if isinstance(item[2], ChannelGroup)]
        return groups, [item[2] for item in found if isinstance(item[2], FrozenGroup)]

    def _roots(self) -> list[tuple[str, int, Tensor]]:
        """Name, first position and labels: of layers, and of parts whose channels stand side by side in one layer."""
        roots = [(name, 0, labels) for name, labels in self.read.outputs.items() if name.startswith(self.prefix)]
        owner = {int(n): (name, k) for name, _, labels in roots for k, n in enumerate(labels.tolist())}
        for part in self.read.maps.parts:
            own = [owner.get(number) for number in part.tolist()]
            first = own[0]
            if first is not None and own == [(first[0], first[1] + k) for k in range(len(own))]:
                name, start = first
                roots.append((f"{name}[{start}:{start + len(own)}]", start, part))
        return roots

    def _to_group(self, name: str, members: list[int], positions: int) -> ChannelGroup | FrozenGroup:
        sources = {unit: source for source, unit in enumerate(members)}
        producers, consumers, followers = (
            self._slots(side, sources) for side in (self.read.outputs, self.read.inputs, self.read.followers)
        )
        reason = next((self.reasons[unit] for unit in members if unit in self.reasons), None)
        if reason is None and not consumers:
            reason = "no layer reads its channels"
        if reason is None and len(members) == 1:
            tied = "splits, shuffles or sums tie all of its channels to each other"
            reason = "a single channel cannot be split" if positions == 1 else tied
        if reason is not None:
            return FrozenGroup(name, positions, reason)
        residual = len(producers) > 1 and not self.adds.isdisjoint(members)
        return ChannelGroup(name, len(members), producers, consumers, followers, residual)

    def _slots(self, side: dict[str, Tensor], sources: dict[int, int]) -> tuple[Slot, ...]:
        slots = []
        for name, labels in side.items():
            own = [(place, sources[unit]) for place, unit in enumerate(self.units[labels.numpy()]) if unit in sources]
            if own:
                slots.append(Slot(name, tuple(place for place, _ in own), tuple(source for _, source in own)))
        return tuple(slots)


def _widths(read: _Read, units: Any, groups: Sequence[ChannelGroup]) -> tuple[CutWidth, ...]:
    """Attributes that say widths, in channels of ``groups``."""
    channel: dict[int, tuple[str, int]] = {}
    for group in groups:
        for slot in group.producers:
            numbers = read.outputs[slot.layer].numpy()
            for position, source in zip(slot.positions, slot.sources, strict=True):
                channel[int(units[numbers[position]])] = (group.name, source)
    found: dict[tuple[str, str, int | None], CutWidth] = {}
    for place in read.maps.places:
        members: dict[str, list[int]] = {}
        fixed = 0
        for unit in units[place.labels.numpy()].tolist():
            if unit in channel:
                members.setdefault(channel[unit][0], []).append(channel[unit][1])
            else:
                fixed += 1
        own = tuple((name, tuple(channels)) for name, channels in members.items())
        key = (place.module, place.attribute, place.index)
        found.setdefault(key, CutWidth(*key, fixed, own))
    return tuple(width for width in found.values() if width.members)
