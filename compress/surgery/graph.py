"""Coupled channel groups of a network: of Torch-Pruning's dependency graph, or of index maps where that stops."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ..errors import PruningError
from ..modules import copy_of
from ..outputs import name_tensors
from .follow import follow_groups
from .ground import stops_torch_pruning
from .groups import (
    ChannelGraph,
    ChannelGroup,
    Convolution,
    FrozenGroup,
    Slot,
    View,
    group_slots,
    is_depthwise,
    layer_width,
)
from .reach import reach
from .shared import shared_layers


def _plain_view(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    return list(name_tensors(network(images)).values())


def dependency_graph(network: nn.Module, example: Tensor, view: View | None = None) -> Any:
    """Torch-Pruning's graph of ``network`` itself, whose parameters must require gradients.

    Leaves it in eval mode, and PReLUs of one slope without gradients.

    Raises:
        PruningError: Torch-Pruning cannot follow the network's channels.
    """
    view = view or _plain_view
    graph = tp.DependencyGraph()
    # One slope for all channels: nothing shrinks, but as a layer, or as a branch of gradients, it would hide the
    # width of what it is applied to.
    one_slope = [module for module in network.modules() if isinstance(module, nn.PReLU) and module.num_parameters == 1]
    for module in one_slope:
        module.requires_grad_(False)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # unwrapped parameters, unknown operations: the dry run judges those
        try:
            return graph.build_dependency(
                network,
                example_inputs=(example,),
                forward_fn=lambda model, inputs: view(model, inputs[0]),
                ignored_layers=one_slope,
                verbose=False,
            )
        except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
            raise PruningError(
                f"Torch-Pruning cannot follow the channels of {type(network).__name__} ({error}): "
                "it knows convolutions, linear layers, additions, concatenations and one flatten; rewrite the part "
                "that does more, or keep the model as it is"
            ) from error


def layer_name(prefix: str, name: str) -> str:
    """The name that a layer of the network has inside its classifier (``prefix`` is where that sits)."""
    return name.removeprefix(prefix)


def trace_groups(network: nn.Module, example: Tensor, *, prefix: str = "", view: View | None = None) -> ChannelGraph:
    """Find the channel groups rooted below ``prefix``; nothing is proven yet (see ``prove_groups``).

    Args:
        network: traced on a copy, with gradients; left as it is.
        example: (1, C, H, W) images.
        prefix: where the classifier sits in a joint network, e.g. ``classifier.``. Groups are named relative to
            it, so that a plan made jointly fits the classifier alone; slots keep the network's own names.
        view: see ``View``; the network's outputs when absent.
    """
    if stops_torch_pruning(network, example, prefix=prefix, view=view):
        return follow_groups(network, example, prefix=prefix, view=view)
    original, network = network, _traceable(network)
    shared = shared_layers(network, example)
    try:
        graph = dependency_graph(network, example, view)
    except PruningError:
        return follow_groups(original, example, prefix=prefix, view=view)
    names = {module: name for name, module in network.named_modules()}
    read: dict[str, ChannelGroup | FrozenGroup] = {}
    seen: set[str] = set()
    for name, layer in _roots(network, prefix):
        if name in seen or layer not in graph.module2node:
            continue
        group, reason = read_group(graph, layer, layer_name(prefix, name), names)
        reason = reason or next((shared[slot.layer] for slot in group_slots(group) if slot.layer in shared), None)
        seen.update(slot.layer for slot in group.producers if group.channels > 1 or slot.layer == name)
        read[name] = group if reason is None else FrozenGroup(group.name, group.channels, reason)
    found = [read[name] for name in names.values() if name in read]
    return ChannelGraph(
        tuple(group for group in found if isinstance(group, ChannelGroup)),
        tuple(group for group in found if isinstance(group, FrozenGroup)),
    )


def _roots(network: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Layers that may found a group, narrow ones first.

    Where a concatenation is added to one wide layer, its parts then make a group each, and no part can be emptied.
    """
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if name.startswith(prefix) and isinstance(layer, Convolution | nn.Linear) and not is_depthwise(layer)
    ]
    return sorted(layers, key=lambda named: layer_width(named[1]))


def _traceable(network: nn.Module) -> nn.Module:
    """A copy with gradients: Torch-Pruning walks grad_fn and leaves the model in eval mode."""
    return copy_of(network).requires_grad_(True)


def read_group(graph: Any, root: nn.Module, name: str, names: dict[nn.Module, str]) -> tuple[ChannelGroup, str | None]:
    """The group of ``root``'s output channels, and the reason to freeze it, if there is one."""
    width = layer_width(root)
    items, reason = reach(graph, root, width)
    producers: list[Slot] = []
    consumers: list[Slot] = []
    followers: list[Slot] = []
    tied: list[tuple[Slot, int]] = []
    for item in items:
        layer = item.layer
        if isinstance(layer, nn.Parameter):
            reason = reason or _why_parameter(layer, names)
            continue
        if layer not in names:
            continue  # an operation (add, cat, flatten): nothing in it shrinks
        slot = Slot(names[layer], item.positions, item.sources)
        size, into = _slot_kind(layer, item.inward)
        if size is None:
            reason = reason or _why_frozen(layer, slot.layer)
        elif max(slot.positions) >= size:
            reason = reason or (
                f"'{slot.layer}' has {size} channels where these are {width}: something in between splits, reorders, "
                "pads or broadcasts them"
            )
        elif isinstance(layer, Convolution) and layer.groups > 1 and into != "both":
            tied.append((slot, size // layer.groups))
        into_list = {"in": consumers, "out": producers, "both": followers}[into]
        into_list.append(slot)
    if reason is None and not consumers:
        reason = "its channels are the network's output"
    if reason is None and width == 1:
        reason = "a single channel cannot be split"
    residual = len(producers) > 1 and any(item.adds for item in items)
    group = ChannelGroup(name, width, tuple(producers), tuple(consumers), tuple(followers), residual)
    return _with_ties(group, tied) if reason is None and tied else (group, reason)


def _with_ties(group: ChannelGroup, tied: Sequence[tuple[Slot, int]]) -> tuple[ChannelGroup, str | None]:
    """The group with one channel for all that grouped convolutions tie; or the reason why it cannot shrink.

    Args:
        tied: slots of grouped convolutions, and how many channels each of their groups has.
    """
    leader = torch.arange(group.channels)
    before = None
    while before is None or not torch.equal(leader, before):  # the least channel that each is tied to
        before = leader.clone()
        for slot, size in tied:
            places, sources = torch.tensor(slot.positions) % size, torch.tensor(slot.sources)
            least = torch.full((size,), group.channels).scatter_reduce(0, places, leader[sources], "amin")
            leader = leader.scatter_reduce(0, sources, least[places], "amin")
        leader = leader[leader]
    channels = len(torch.unique(leader))
    layers = " and ".join(f"'{slot.layer}'" for slot, _ in tied[:2])
    if not torch.equal(leader, torch.arange(group.channels) % channels):
        return group, f"the grouped convolution {layers} ties its channels in an order that surgery cannot keep"
    if channels == 1:
        return group, f"the grouped convolution {layers} ties all of its channels to each other"

    def folded(slots: Sequence[Slot]) -> tuple[Slot, ...]:
        return tuple(replace(slot, sources=tuple(source % channels for source in slot.sources)) for slot in slots)

    return replace(
        group,
        channels=channels,
        producers=folded(group.producers),
        consumers=folded(group.consumers),
        followers=folded(group.followers),
    ), None


def _slot_kind(layer: nn.Module, inward: bool) -> tuple[int | None, str]:
    """How many channels the layer has on the side that a group touches (None: not channelwise), and the side."""
    if is_depthwise(layer):
        assert isinstance(layer, Convolution)
        return layer.out_channels, "both"
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        return None, "both"
    if isinstance(layer, Convolution):
        return (layer.in_channels, "in") if inward else (layer.out_channels, "out")
    if isinstance(layer, nn.Linear):
        return (layer.in_features, "in") if inward else (layer.out_features, "out")
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
        return layer.num_features, "both"
    if isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels:
        return layer.num_channels, "both"
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters, "both"
    return None, "both"


def _why_parameter(parameter: nn.Parameter, names: dict[nn.Module, str]) -> str:
    """Why the channels of what a parameter is computed with cannot be removed: surgery does not know its layer."""
    owners = ((m, key) for m in names for key, own in m._parameters.items() if own is parameter)
    module, key = next(owners, (None, ""))
    if module is None:
        return "a parameter outside of any layer depends on these channels"
    where = f"{names[module]}.{key}".removeprefix(".")
    kind = type(module).__name__
    if isinstance(module, nn.RMSNorm):
        return f"{kind} '{names[module]}' normalises several channels together"
    return f"the parameter '{where}' of {kind}, a kind whose channels surgery does not remove, depends on them"


def _why_frozen(layer: nn.Module, name: str) -> str:
    """Why the channels of a layer that is not channelwise cannot be removed."""
    kind = type(layer).__name__
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.LocalResponseNorm):
        return f"{kind} '{name}' normalises several channels together"
    if isinstance(layer, nn.ConvTranspose2d):
        return f"{kind} '{name}' has {layer.groups} groups: surgery removes channels of ungrouped and depthwise ones"
    return f"{kind} '{name}' is of a kind whose channels surgery does not remove"
