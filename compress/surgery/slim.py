"""Remove channels for real: apply a plan through Torch-Pruning, one group at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import PruningError
from .graph import View, dependency_graph
from .plan import PrunePlan


def slim_(network: nn.Module, plan: PrunePlan, example: Tensor, *, prefix: str = "", view: View | None = None) -> None:
    """Remove from ``network`` every channel that ``plan`` does not keep. Parameters become new objects.

    Args:
        network: the classifier the plan was made for, or a joint network that holds it below ``prefix``
            (the explainer then shrinks with it). Its train/eval and gradient flags are restored.
        example: (1, C, H, W) images for tracing.

    Raises:
        PruningError: the plan removes nothing, or does not fit the network (which is then as it was), or a group's
            channels are tied to each other.
    """
    if not plan.shrinks:
        raise PruningError("the plan keeps every channel: there is nothing to remove; lower the budget")
    layers = _roots(network, plan, prefix)
    training = {name: module.training for name, module in network.named_modules()}
    gradients = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    network.requires_grad_(True)
    try:
        graph = dependency_graph(network, example, view)
        for name, layer in layers.items():
            removed = plan.removed(name)
            if removed:
                _remove(graph, layer, name, removed)
    finally:
        for name, module in network.named_modules():
            module.training = training[name]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(gradients[name])


def _roots(network: nn.Module, plan: PrunePlan, prefix: str) -> dict[str, nn.Module]:
    """The layer that each group of the plan is named after; all are checked before anything is removed."""
    modules = dict(network.named_modules())
    layers = {}
    for name, width in plan.widths.items():
        layer = modules.get(prefix + name)
        found = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if layer is None or found != width:
            raise PruningError(
                f"the plan's group '{name}' has {width} channels, the model has {found or 'no such layer'}: "
                "use the plan with the model it was made for"
            )
        layers[name] = layer
    return layers


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
