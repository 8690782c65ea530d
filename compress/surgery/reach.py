"""Which positions of which layers a layer's channels reach: a walk over Torch-Pruning's dependencies that ends.

Torch-Pruning's own ``get_pruning_group`` repeats a node for every new list of indices. Where it misreads a network (a
concatenation of flattened maps, for one) the lists grow and that takes forever. This walk passes a position once, and
gives up at the first sign of a misreading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from torch_pruning.ops import _ElementWiseOp

LOST = 2**16
"""A position beyond this, and beyond every layer's width, is a misreading."""


class _Index(NamedTuple):
    """A position and the channel of the root it belongs to, under the names that Torch-Pruning's mappings read."""

    idx: int
    root_idx: int


@dataclass(frozen=True)
class Reached:
    """Position ``positions[k]`` of a layer's inputs (``inward``) or outputs is channel ``sources[k]`` of the root.

    ``layer`` is an operation of Torch-Pruning's, or a parameter, where no module of the network stands; ``adds``:
    it is the addition of two or more tensors of the network.
    """

    layer: nn.Module | nn.Parameter
    inward: bool
    positions: tuple[int, ...]
    sources: tuple[int, ...]
    adds: bool = False


def reach(graph: Any, root: nn.Module, width: int) -> tuple[list[Reached], str | None]:
    """All that goes with the ``width`` output channels of ``root``; the reason to stop, where that makes no sense.

    Args:
        graph: Torch-Pruning's dependency graph.
    """
    widest = max([LOST, *(max(node.module.weight.shape[:2]) for node in graph.module2node.values() if _is_layer(node))])
    prune = graph.get_pruner_of_module(root).prune_out_channels
    start = {channel: channel for channel in range(width)}
    found: dict[tuple[Any, Any], dict[int, int]] = {(graph.module2node[root], prune): start}
    pending = [(graph.module2node[root], prune, start)]
    reason: str | None = None
    while pending and reason is None:
        node, pruned, channels = pending.pop()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(pruned):
                continue
            known = found.setdefault((dependency.target, dependency.handler), {})
            fresh: dict[int, int] = {}
            for position, source in _mapped(dependency, channels):
                if position not in known:
                    known[position] = fresh[position] = source
                if known[position] != source:
                    reason = "its channels are tied to each other"
                elif position >= widest:
                    reason = "Torch-Pruning loses count of its channels (more than one flatten or concatenation?)"
            if fresh:
                pending.append((dependency.target, dependency.handler, fresh))
    reached = [
        Reached(
            node.module,
            graph.is_in_channel_pruning_fn(handler),
            tuple(channels),
            tuple(channels.values()),
            adds=_adds(node),
        )
        for (node, handler), channels in found.items()
        if channels
    ]
    return reached, reason


def _adds(node: Any) -> bool:
    """Whether a node of Torch-Pruning's graph is an addition (or subtraction) of two tensors that depend on weights."""
    if not isinstance(node.module, _ElementWiseOp):
        return False
    return node.module._grad_fn.startswith(("Add", "Sub")) and len(set(node.inputs)) > 1


def _is_layer(node: Any) -> bool:
    return isinstance(node.module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)


def _mapped(dependency: Any, channels: dict[int, int]) -> list[_Index]:
    """Positions and sources beyond a dependency: concatenations shift them, a flatten multiplies them."""
    indices = [_Index(position, source) for position, source in channels.items()]
    for mapping in dependency.index_mapping:
        if mapping is not None:
            indices = mapping(indices)
    return indices
