"""MACs of every image: what its route computes, heads included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Batch, BatchSource, one_pass
from ..gates import CostModel, LayerShape, read_layers
from ..training import to_device
from .routing import DynamicClassifier, head_name


@dataclass(frozen=True)
class Usage:
    """What a dynamic classifier did with a set of images.

    ``macs``: (N,) per image, heads included; ``choices``: (N, routes) number of the mask that each route took.
    """

    accuracy: float
    macs: Tensor
    choices: Tensor

    @property
    def macs_mean(self) -> float:
        """Mean MACs per image."""
        return float(self.macs.double().mean())


def routed_cost(model: DynamicClassifier, example: Tensor) -> CostModel:
    """T(v) of a classifier with its heads; ``v`` are the open channels of the routes' groups, in their order.

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
    """(N,) MACs for gate values (N, channels) of every route: a channel is computed where its value is not 0."""
    return cost.of_values(torch.cat([(values > 0).double() for values in gates], 1))


@torch.inference_mode()
def measure_usage(model: DynamicClassifier, cost: CostModel, batches: BatchSource) -> Usage:
    """Accuracy, MACs and routes over one pass, in eval mode; the model's mode is restored."""
    device = next(model.parameters()).device
    cost = cost.to(device)
    training = model.training
    model.eval()

    def work(_: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = to_device(batch, device)
        routing = model.routed(batch.images)
        hits = routing.logits.argmax(1) == batch.labels
        choices = torch.stack([scores.argmax(1) for scores in routing.scores], 1)
        return hits.cpu(), macs_per_image(cost, routing.gates).cpu(), choices.cpu()

    hits, macs, choices = zip(*one_pass(batches, work), strict=True)
    model.train(training)
    return Usage(float(torch.cat(hits).double().mean()), torch.cat(macs), torch.cat(choices))
