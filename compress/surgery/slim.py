"""Remove channels for real: apply a plan through Torch-Pruning, one group at a time."""

from __future__ import annotations

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
        PruningError: the plan removes nothing, or does not fit the network.
    """
    if not plan.shrinks:
        raise PruningError("the plan keeps every channel: there is nothing to remove; lower the budget")
    training = {name: module.training for name, module in network.named_modules()}
    gradients = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    network.requires_grad_(True)
    try:
        graph = dependency_graph(network, example, view)
        modules = dict(network.named_modules())
        for name in plan.kept:
            removed = plan.removed(name)
            if removed:
                _remove(graph, modules.get(prefix + name), name, plan.widths[name], removed)
    finally:
        for name, module in network.named_modules():
            module.training = training[name]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(gradients[name])


def _remove(graph: object, layer: nn.Module | None, name: str, width: int, removed: list[int]) -> None:
    found = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    if layer is None or found != width:
        raise PruningError(
            f"the plan's group '{name}' has {width} channels, the model has {found or 'no such layer'}: "
            "use the plan with the model it was made for"
        )
    pruner = graph.get_pruner_of_module(layer)  # type: ignore[attr-defined]
    group = graph.get_pruning_group(layer, pruner.prune_out_channels, removed)  # type: ignore[attr-defined]
    if not graph.check_pruning_group(group):  # type: ignore[attr-defined]
        raise PruningError(f"group '{name}': removing {len(removed)} of {width} channels would empty a layer")
    group.prune(record_history=False)
