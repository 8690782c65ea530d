"""Measured use of a dynamic classifier: MACs per image, heads included, accuracy and choices of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Batch, BatchSource, one_pass
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
