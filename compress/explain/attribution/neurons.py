"""Neuron pruning per image: scores of all neurons, and the network with the lowest-scored ones closed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ModelError
from .activations import ReplacedActivations

STEPS = 100
"""A step closes one percent of the neurons."""


class Neurons:
    """Scores and ranks of all neurons of a classifier, for each image of a batch.

    A neuron is one pixel of one channel in the output of a spatial activation: of every ReLU, those after a residual
    sum included; likewise of other activations (SiLU, GELU, Hardswish, ...). Its score is |n * d f_y / d n| at the
    actual activation n, f_y the logit of the explained class: to first order, the change of f_y when the neuron is
    closed (n = 0). One backward pass gives all scores, as the gradient of a factor 1 on each neuron.

    Args:
        classifier: in eval mode.
        images: (N, 3, H, W), checked.
        labels: (N,) the explained classes.

    Attributes:
        scores: (N, neurons), layers in the order of their calls.
        probability: (N,) softmax probability of the explained classes, with all neurons open.

    Raises:
        ModelError: the network has no spatial activation that torch can see.
    """

    def __init__(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.classifier = classifier
        self.images = images
        self.labels = labels
        factors: list[Tensor] = []
        silent: list[Tensor] = []

        def add_factor(_index: int, output: Tensor) -> Tensor:
            factors.append(torch.ones_like(output, requires_grad=True))
            silent.append(output.detach().flatten(1) == 0)
            return output * factors[-1]

        with ReplacedActivations(add_factor, spatial=True):
            logits = classifier(images * 1)
        if not factors:
            raise ModelError(
                "pruning neurons needs spatial activations (ReLU, SiLU, GELU, Hardswish, ...), and this model computes "
                "none that torch can see (compiled and scripted code it cannot): take gradient or integrated_gradients"
            )
        gradients = torch.autograd.grad(class_values(logits, labels).sum(), factors, materialize_grads=True)
        self.shapes = [factor.shape[1:] for factor in factors]
        self.scores = torch.cat([gradient.flatten(1).abs() for gradient in gradients], 1)
        self.probability = class_values(logits.detach().softmax(1), labels)
        # Ranks, not thresholds: many scores are 0, and a threshold would close all of those in one step. Silent
        # neurons (activation 0) are ranked first: closing them changes nothing.
        keys = self.scores.masked_fill(torch.cat(silent, 1), -1)
        order = keys.argsort(dim=1, stable=True)
        ranks = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device).expand_as(order)
        self._ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, ranks)
        self._silent = (keys < 0).sum(1)

    def __len__(self) -> int:
        """Neurons of the network."""
        return self.scores.shape[1]

    def count(self, steps: Tensor) -> Tensor:
        """Number of neurons closed after ``steps`` steps of one percent, rounded down."""
        return steps * len(self) // STEPS

    def silent_steps(self) -> Tensor:
        """(N,) steps that close silent neurons only, so that the output does not change."""
        return self._silent * STEPS // len(self)

    def closed(self, counts: Tensor, rows: Tensor | None = None) -> list[Tensor]:
        """Masks (R, C, h, w), one per activation, True for each image's ``counts`` (R,) lowest-ranked neurons.

        Args:
            rows: (R,) indices of the images, which may repeat; all of them by default.
        """
        ranks = self._ranks if rows is None else self._ranks[rows]
        flat = torch.split(ranks < counts[:, None], [shape.numel() for shape in self.shapes], 1)
        return [part.reshape(len(part), *shape) for part, shape in zip(flat, self.shapes, strict=True)]

    @torch.no_grad()
    def change(self, counts: Tensor, rows: Tensor) -> Tensor:
        """(R,) |p' - p| / p of the explained class's probability with ``counts`` neurons of images ``rows`` closed."""
        logits = pruned_logits(self.classifier, self.images[rows], self.closed(counts, rows))
        before = self.probability[rows]
        after = class_values(logits.softmax(1), self.labels[rows])
        return (after - before).abs() / before.clamp_min(torch.finfo(before.dtype).tiny)


def pruned_logits(classifier: nn.Module, images: Tensor, closed: Sequence[Tensor]) -> Tensor:
    """Logits with the outputs of the neurons ``closed`` (see ``Neurons.closed``) set to zero."""
    changed = ModelError("the model computes other activations from one call to the next: its neurons cannot be closed")

    def close(index: int, output: Tensor) -> Tensor:
        if index >= len(closed) or closed[index].shape != output.shape:
            raise changed
        return output.masked_fill(closed[index], 0)

    with ReplacedActivations(close, spatial=True) as mode:
        logits: Tensor = classifier(images * 1)
    if mode.calls != len(closed):
        raise changed
    return logits


def class_values(values: Tensor, labels: Tensor) -> Tensor:
    """(N,) the value of each row's class, of values (N, classes) and labels (N,)."""
    return values.gather(1, labels[:, None]).squeeze(1)
