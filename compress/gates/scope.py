"""Which channels may go: all of them, or those inside of blocks, with the residual streams left whole.

Every layer of a stage reads and writes its residual stream, so a channel of it saves many MACs and costs many layers a
direction of their input. ISP gates none of them. Measured with EfficientNet-Lite0 at half of the MACs, one seed: the
same scores with the streams left whole were faster, at no less accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..surgery import ChannelGraph
from .cost import CostModel
from .select import smallest_amounts

WHOLE: Final = "a residual stream, left whole (gates.scope: inner)"
"""Reason of the groups that are frozen so."""

ROOM: Final = 0.5
"""``auto`` leaves residual streams whole where the smallest plan has at most this share of every limit: a plan close to
the smallest has no choice left."""


def inner_groups(graph: ChannelGraph) -> ChannelGraph:
    """The graph with its residual streams frozen."""
    return graph.without({group.name: WHOLE for group in graph.groups if group.residual})


def choose_scope(
    graph: ChannelGraph,
    scope: str,
    to_cost: Callable[[ChannelGraph], CostModel],
    limits: Callable[[CostModel], Mapping[str, float]],
    align: int = 1,
) -> ChannelGraph:
    """The groups that ``scope`` (``all``, ``inner`` or ``auto``) lets shrink.

    ``inner`` may leave none; ``auto`` then takes all.

    Args:
        to_cost: the cost model of a graph; limits: what the budget allows of its resources. ``auto`` reads them.
        align: channels are kept in multiples of this.
    """
    if scope == "all" or not any(group.residual for group in graph.groups):
        return graph
    inner = inner_groups(graph)
    if scope == "inner":
        return inner
    if not inner.groups:
        return graph
    cost = to_cost(inner)
    smallest = smallest_amounts(cost, align)
    roomy = all(smallest[name] <= ROOM * limit for name, limit in limits(cost).items())
    return inner if roomy else graph
