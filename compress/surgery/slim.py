"""Remove channels physically: apply a plan through Torch-Pruning, one group at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import PruningError
from ..files.untrusted import printable
from ..modules import copy_of
from .cut import cut_
from .follow import follow_groups
from .graph import dependency_graph, read_group
from .ground import stops_torch_pruning
from .groups import ChannelGraph, View
from .plan import PrunePlan


def slim_(network: nn.Module, plan: PrunePlan, example: Tensor, *, prefix: str = "", view: View | None = None) -> None:
    """Remove from ``network`` every channel that ``plan`` does not keep, or nothing. Parameters become new objects.

    Args:
        network: the classifier the plan was made for, or a joint network that holds it below ``prefix``
            (the explainer then shrinks with it). Its train/eval and gradient flags stay.
        example: (1, C, H, W) images for tracing.

    Raises:
        PruningError: the plan removes nothing, or does not fit the network, or a group's channels are tied to each
            other; the network is as it was.
    """
    if not plan.shrinks:
        raise PruningError("the plan keeps every channel: there is nothing to remove; lower the budget")
    twin = copy_of(network)
    slim_or_break_(twin, plan, example, prefix=prefix, view=view)
    for module, slim in zip(network.modules(), twin.modules(), strict=True):
        for name, parameter in slim.named_parameters(recurse=False):
            before = module.get_parameter(name)
            if parameter.shape != before.shape:
                module.register_parameter(name, nn.Parameter(parameter.detach(), requires_grad=before.requires_grad))
        for name, buffer in slim.named_buffers(recurse=False):
            if buffer.shape != module.get_buffer(name).shape:
                setattr(module, name, buffer)
        for name, value in vars(slim).items():  # out_channels, num_features, ...
            if type(value) in (int, tuple, list) and _is_width(value) and vars(module)[name] != value:
                setattr(module, name, value)


def _is_width(value: int | tuple[object, ...] | list[object]) -> bool:
    """Whether an attribute may be a number of channels, or several of them."""
    return isinstance(value, int) or all(type(number) is int for number in value)


def slim_or_break_(
    network: nn.Module,
    plan: PrunePlan,
    example: Tensor,
    *,
    prefix: str = "",
    view: View | None = None,
    known: ChannelGraph | None = None,
) -> None:
    """``slim_`` without a copy: after an error the network is lost; it is left in eval mode, with gradients on.

    Args:
        known: the graph of index maps of this very network, where it was read already.

    Raises:
        PruningError: as ``slim_``.
    """
    if known is None and stops_torch_pruning(network, example, prefix=prefix, view=view):
        known = follow_groups(network, example, prefix=prefix, view=view)
    if known is not None and known.by_index_maps:
        cut_(network.eval().requires_grad_(True), known, plan)
        return
    try:
        graph = dependency_graph(network.requires_grad_(True), example, view)
    except PruningError:  # as ``trace_groups``
        cut_(network.eval(), follow_groups(network, example, prefix=prefix, view=view), plan)
        return
    layers = _roots(network, plan, prefix)
    names = {module: name for name, module in network.named_modules()}
    for name, layer in layers.items():
        if _width(layer) != plan.widths[name]:
            group, reason = read_group(graph, layer, name, names)
            if reason is not None or group.channels != plan.widths[name]:
                raise _misfit(name, plan.widths[name], group.channels)
    for name, layer in layers.items():
        removed = set(plan.removed(name))
        if removed:
            _remove(graph, layer, name, [c for c in range(_width(layer)) if c % plan.widths[name] in removed])


def _width(layer: nn.Module) -> int:
    """Channels that a layer puts out; 0 for what is no convolution or linear layer."""
    width = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
    assert isinstance(width, int)
    return width


def _roots(network: nn.Module, plan: PrunePlan, prefix: str) -> dict[str, nn.Module]:
    """The layer that each group of the plan is named after; all are checked before anything is removed.

    A layer may have a multiple of its group's channels: where grouped convolutions tie them (see ``PrunePlan``).
    """
    modules = dict(network.named_modules())
    layers = {}
    for name, width in plan.widths.items():
        layer = modules.get(prefix + name)
        if layer is None or not _width(layer) or _width(layer) % width:
            raise _misfit(name, width, 0 if layer is None else _width(layer))
        layers[name] = layer
    return layers


def _misfit(name: str, planned: int, found: int) -> PruningError:
    return PruningError(
        f"the plan's group '{printable(name)}' has {planned} channels, the model has {found or 'no such layer'}: "
        "use the plan with the model it was made for"
    )


def _remove(graph: Any, layer: nn.Module, name: str, removed: list[int]) -> None:
    group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, removed)
    # Halves of one layer that are added to each other: half of the channels would drag the other half along.
    taken = {
        index
        for item in group
        if item.dep.layer is layer and graph.is_out_channel_pruning_fn(item.dep.pruning_fn)
        for index in item.idxs
    }
    if taken != set(removed):
        raise PruningError(
            f"group '{name}': removing {len(removed)} channels would take {len(taken)}: they are tied to each other"
        )
    if not graph.check_pruning_group(group):
        raise PruningError(f"group '{name}': removing {len(removed)} channels would empty a layer")
    group.prune(record_history=False)
    for item in group:
        _finish_norm_(item.dep.layer, {int(index) for index in item.idxs})


def _finish_norm_(layer: nn.Module, removed: set[int]) -> None:
    """Set what Torch-Pruning leaves of a normalisation by channel: the groups, and statistics of instances."""
    if isinstance(layer, nn.GroupNorm):
        layer.num_groups = layer.num_channels  # only those with a group for each channel are ever cut
    if isinstance(layer, nn.InstanceNorm2d) and layer.running_mean is not None and layer.running_var is not None:
        if len(layer.running_mean) == layer.num_features:
            return
        kept = [channel for channel in range(len(layer.running_mean)) if channel not in removed]
        layer.running_mean, layer.running_var = layer.running_mean[kept], layer.running_var[kept]
