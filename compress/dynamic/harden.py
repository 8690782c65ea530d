"""Harden masks: set the smallest values to 0 permanently, until the mean MACs are within the budget."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import BatchSource
from ..errors import PruningError
from ..gates import CostModel
from .cost import Usage, measure_usage
from .routing import DynamicClassifier

HALVINGS = 14
"""Bisection steps of the number of mask values that become 0."""


def check_reachable(cost: CostModel, budget: float, align: int = 1) -> None:
    """Raise for a budget (MACs) below the cost with the fewest channels open in every route.

    Raises:
        PruningError: it is; the message gives that cost.
    """
    fewest = [(torch.arange(width) < _width_step(width, align)).double() for width in cost.widths]
    smallest = float(cost.of_values(torch.cat(fewest)))
    if budget < smallest:
        raise PruningError(
            f"the dynamic budget of {budget / 1e6:.3f} M MACs cannot be reached: with {align} open in every route the "
            f"model still computes {smallest / 1e6:.3f} M (layers outside of the routes stay dense); raise dynamic.macs"
            f"{' or lower dynamic.align' if align > 1 else ''}"
        )


def harden_(model: DynamicClassifier, cost: CostModel, batches: BatchSource, *, budget: float, align: int) -> Usage:
    """Close mask values permanently, the smallest first, until the mean MACs of ``batches`` are within ``budget``.

    Every mask keeps a multiple of ``align`` channels where its layer has at least twice as many, and at least one.
    Closing values changes what the heads read and so their choices: every trial is measured, not predicted.

    Raises:
        PruningError: the fewest channels cost more than the budget.
    """
    check_reachable(cost, budget, align)
    start = [(router.masks.detach().clone(), router.keep.clone()) for router in model.router_list]
    values = torch.cat([masks[keep] for masks, keep in start]).sort().values

    def close(count: int) -> Usage:
        threshold = float(values[count - 1]) if count else 0.0
        _keep_above_(model, start, threshold, align)
        return measure_usage(model, cost, batches)

    best = close(0)
    if best.macs_mean <= budget:
        return best
    low, high = 0, len(values)  # closing ``low`` values is too few, ``high`` enough
    best, best_count = close(high), high
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        if middle in (low, high):
            break
        usage = close(middle)
        if usage.macs_mean <= budget:
            high, best, best_count = middle, usage, middle
        else:
            low = middle
    _keep_above_(model, start, float(values[best_count - 1]), align)
    return best


def _width_step(width: int, align: int) -> int:
    """The multiple of open channels in a mask of ``width`` channels."""
    return align if width >= 2 * align else 1


@torch.no_grad()
def _keep_above_(model: DynamicClassifier, start: list[tuple[Tensor, Tensor]], threshold: float, align: int) -> None:
    """Keep the mask values above ``threshold``, in multiples of ``align``, and set the others to 0."""
    for router, (masks, keep) in zip(model.router_list, start, strict=True):
        step = _width_step(masks.shape[1], align)
        above = ((masks > threshold) & keep).sum(1)
        counts = ((above.double() / step).round().long() * step).clamp(min=step).minimum(keep.sum(1))
        rank = masks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        router.keep.copy_(rank < counts[:, None])
        router.masks.copy_(masks)
        router.hard = True
        router.project_()
