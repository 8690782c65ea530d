"""MACs of a dynamic classifier per image, heads included; and hardening its masks until the mean is within a budget.

Hardening sets the smallest mask values to 0 permanently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Batch, BatchSource, one_pass
from ..errors import PruningError
from ..gates import CostModel, LayerShape, read_layers
from ..modes import eval_mode
from ..training import to_device
from .routing import DynamicClassifier, head_name


@dataclass(frozen=True)
class Usage:
    """Accuracy, MACs and choices of a dynamic classifier on a set of images.

    ``macs``: (N,) per image, heads included; ``choices``: (N, routes) number of the mask that each route chose.
    """

    accuracy: float
    macs: Tensor
    choices: Tensor

    @property
    def macs_mean(self) -> float:
        """Mean MACs per image."""
        return float(self.macs.double().mean())


def routed_cost(model: DynamicClassifier, example: Tensor) -> CostModel:
    """Cost T(v) of a classifier with its heads; ``v`` are the open channels of the routes' groups, in their order.

    Args:
        example: (1, 3, H, W) on the model's device.
    """
    heads = [
        LayerShape(name=head_name(index), inputs=route.inputs, outputs=len(router.masks), unit=1)
        for index, (route, router) in enumerate(zip(model.routes, model.router_list, strict=True))
    ]
    layers = read_layers(model.classifier, example.to(next(model.parameters()).device))
    return CostModel([*layers, *heads], [route.group for route in model.routes])


def macs_per_image(cost: CostModel, gates: Sequence[Tensor]) -> Tensor:
    """(N,) MACs for gate values (N, channels) of every route: a channel is computed if its value is above 0."""
    return cost.of_values(torch.cat([(values > 0).double() for values in gates], 1))


@torch.inference_mode()
def measure_usage(model: DynamicClassifier, cost: CostModel, batches: BatchSource) -> Usage:
    """Accuracy, MACs and choices over one pass, in eval mode; the modules' modes are restored."""
    device = next(model.parameters()).device
    cost = cost.to(device)

    def work(_: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = to_device(batch, device)
        routing = model.routed(batch.images)
        hits = routing.logits.argmax(1) == batch.labels
        choices = torch.stack([scores.argmax(1) for scores in routing.scores], 1)
        return hits.cpu(), macs_per_image(cost, routing.gates).cpu(), choices.cpu()

    with eval_mode(model):
        hits, macs, choices = zip(*one_pass(batches, work), strict=True)
    return Usage(float(torch.cat(hits).double().mean()), torch.cat(macs), torch.cat(choices))


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
