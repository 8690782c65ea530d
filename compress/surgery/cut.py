"""Remove channels of groups that index maps found: the tensors of every layer are cut at the group's slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PruningError
from .groups import ChannelGraph, Convolution, Slot, is_frozen_norm
from .plan import PrunePlan
from .splits import set_width_

_WIDTHS = ("num_features", "num_channels", "num_parameters")
"""Attributes that say how many channels a normalisation or a PReLU has."""


def cut_(network: nn.Module, graph: ChannelGraph, plan: PrunePlan) -> None:
    """Remove what ``plan`` does not keep from the layers of ``network``, which ``graph`` was read from.

    Raises:
        PruningError: the plan is of other groups.
    """
    plan.check_fits(graph)
    modules = dict(network.named_modules())
    inputs: dict[str, set[int]] = defaultdict(set)
    outputs: dict[str, set[int]] = defaultdict(set)
    for group in graph.groups:
        if group.name not in plan.kept:
            continue
        removed = set(plan.removed(group.name))
        for side, slots in ((inputs, group.consumers), (outputs, (*group.producers, *group.followers))):
            for slot in slots:
                side[slot.layer] |= _places(slot, removed)
    for name in dict.fromkeys((*inputs, *outputs)):
        _cut_layer(modules[name], name, inputs[name], outputs[name])
    for width in graph.widths:
        set_width_(modules, width, plan.kept)


def _places(slot: Slot, removed: set[int]) -> set[int]:
    return {place for place, source in zip(slot.positions, slot.sources, strict=True) if source in removed}


def _cut_layer(layer: Any, name: str, inputs: set[int], outputs: set[int]) -> None:
    into, out = _sides(layer)
    kept_in, kept_out = _kept(into, inputs), _kept(out, outputs)
    if not kept_in or not kept_out:
        raise PruningError(f"the plan leaves layer '{name}' without channels; keep at least one")
    if isinstance(layer, nn.Linear):
        _select(layer, "weight", {0: kept_out, 1: kept_in})
        _select(layer, "bias", {0: kept_out})
        layer.in_features, layer.out_features = len(kept_in), len(kept_out)
    elif isinstance(layer, Convolution):
        _cut_convolution(layer, name, kept_in, kept_out)
    else:
        for key in ("weight", "bias", "running_mean", "running_var"):
            _select(layer, key, {0: kept_out})
        for key in _WIDTHS:
            if hasattr(layer, key):
                setattr(layer, key, len(kept_out))
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = layer.num_channels  # only those with a group for each channel are ever cut


def _sides(layer: Any) -> tuple[int, int]:
    """Channels that a layer takes and gives."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Convolution):
        return layer.in_channels, layer.out_channels
    if is_frozen_norm(layer):
        return len(layer.weight), len(layer.weight)
    width = next(getattr(layer, key) for key in _WIDTHS if hasattr(layer, key))
    return width, width


def _kept(width: int, removed: Iterable[int]) -> list[int]:
    gone = set(removed)
    return [place for place in range(width) if place not in gone]


def _cut_convolution(layer: Any, name: str, kept_in: list[int], kept_out: list[int]) -> None:
    if layer.groups == layer.in_channels > 1:  # a filter (or several) for each channel, which goes with it
        each = layer.out_channels // layer.in_channels
        layer.groups = layer.in_channels = len(kept_out) // each
        rows = {0: kept_out}
    elif layer.groups > 1:
        size = layer.in_channels // layer.groups
        filters = sorted({place % size for place in kept_in})
        if len(filters) * layer.groups != len(kept_in) or len(kept_out) % layer.groups:
            raise PruningError(f"the groups of '{name}' would have channels at different places")
        rows = {0: kept_out, 1: filters}
        layer.in_channels = len(kept_in)
    else:
        rows = {0: kept_in, 1: kept_out} if layer.transposed else {0: kept_out, 1: kept_in}
        layer.in_channels = len(kept_in)
    _select(layer, "weight", rows)
    _select(layer, "bias", {0: kept_out})
    layer.out_channels = len(kept_out)


def _select(layer: nn.Module, key: str, kept: dict[int, list[int]]) -> None:
    """Cut a parameter or a buffer of ``layer``, if it has it, along dimensions."""
    tensor = getattr(layer, key, None)
    if not isinstance(tensor, Tensor):
        return
    values = tensor.detach()
    for dim, places in kept.items():
        if len(places) != values.shape[dim]:
            values = values.index_select(dim, torch.tensor(places, device=values.device))
    if values.shape == tensor.shape:
        return
    is_parameter = isinstance(tensor, nn.Parameter)
    setattr(layer, key, nn.Parameter(values, requires_grad=tensor.requires_grad) if is_parameter else values)
