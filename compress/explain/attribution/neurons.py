"""Neurons of a network for single images: their scores, and the network with the lowest of them closed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ModelError
from .activations import EachActivation

STEPS = 100
"""A step closes one percent of the neurons."""


class Neurons:
    """Scores of all neurons of a classifier for a batch of images, and which of them come first.

    A neuron is one pixel of one channel of what a spatial activation gives: of every ReLU, those after a residual
    sum included; in networks with other activations (SiLU, GELU, Hardswish, ...) of those, alike. Its score is
    |n * d f_y / d n| at the actual activation n, f_y the logit of the explained class: to first order, what f_y loses
    when the neuron is closed (n = 0). One backward gives all of them, as the gradient of a factor 1 on each.

    Args:
        classifier: in eval mode.
        images: (N, 3, H, W), checked.
        labels: (N,) the explained classes.

    Attributes:
        scores: (N, neurons), layers in the order of their calls.
        probability: (N,) softmax probability of the explained classes, nothing closed.

    Raises:
        ModelError: the network has no spatial activation that torch can see.
    """

    def __init__(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.classifier = classifier
        self.images = images
        self.labels = labels
        factors: list[Tensor] = []
        silent: list[Tensor] = []

        def watch(_index: int, output: Tensor) -> Tensor:
            factors.append(torch.ones_like(output, requires_grad=True))
            silent.append(output.detach().flatten(1) == 0)
            return output * factors[-1]

        with EachActivation(watch, spatial=True):
            logits = classifier(images * 1)
        if not factors:
            raise ModelError(
                "pruning neurons needs spatial activations (ReLU, SiLU, GELU, Hardswish, ...), and this model computes "
                "none that torch can see (compiled and scripted code it cannot): take gradient or integrated_gradients"
            )
        losses = torch.autograd.grad(of_class(logits, labels).sum(), factors, materialize_grads=True)
        self.shapes = [factor.shape[1:] for factor in factors]
        self.scores = torch.cat([loss.flatten(1).abs() for loss in losses], 1)
        self.probability = of_class(logits.detach().softmax(1), labels)
        # Ranks, not thresholds: scores of 0 are many, and a threshold would close all of them in one step. Those that
        # are silent come first: closing them changes nothing.
        keys = self.scores.masked_fill(torch.cat(silent, 1), -1)
        order = keys.argsort(dim=1, stable=True)
        places = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device).expand_as(order)
        self._ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places)
        self._silent = (keys < 0).sum(1)

    def __len__(self) -> int:
        """Neurons of the network."""
        return self.scores.shape[1]

    def count(self, steps: Tensor) -> Tensor:
        """How many neurons are closed after so many steps of one percent, rounded down."""
        return steps * len(self) // STEPS

    def free_steps(self) -> Tensor:
        """(N,) steps that close silent neurons alone: the output stays what it is."""
        return self._silent * STEPS // len(self)

    def closed(self, counts: Tensor, rows: Tensor | None = None) -> list[Tensor]:
        """Per activation (R, C, h, w) True where closed: each image's ``counts`` (R,) neurons of the lowest scores.

        Args:
            rows: (R,) indices of the images, which may repeat; all of them by default.
        """
        ranks = self._ranks if rows is None else self._ranks[rows]
        flat = torch.split(ranks < counts[:, None], [shape.numel() for shape in self.shapes], 1)
        return [part.reshape(len(part), *shape) for part, shape in zip(flat, self.shapes, strict=True)]

    @torch.no_grad()
    def change(self, counts: Tensor, rows: Tensor) -> Tensor:
        """(R,) |p' - p| / p of the explained class's probability when images ``rows`` lose ``counts`` neurons."""
        logits = pruned_logits(self.classifier, self.images[rows], self.closed(counts, rows))
        before = self.probability[rows]
        after = of_class(logits.softmax(1), self.labels[rows])
        return (after - before).abs() / before.clamp_min(torch.finfo(before.dtype).tiny)


def pruned_logits(classifier: nn.Module, images: Tensor, closed: Sequence[Tensor]) -> Tensor:
    """Logits with the neurons ``closed`` (see ``Neurons.closed``) at zero, whatever they would be."""

    other = ModelError("the model computes other activations from one call to the next: its neurons cannot be closed")

    def close(index: int, output: Tensor) -> Tensor:
        if index >= len(closed) or closed[index].shape != output.shape:
            raise other
        return output.masked_fill(closed[index], 0)

    with EachActivation(close, spatial=True) as mode:
        logits: Tensor = classifier(images * 1)
    if mode.calls != len(closed):
        raise other
    return logits


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """(N, classes), (N,) -> (N,) the value of each row's class."""
    return values.gather(1, labels[:, None]).squeeze(1)
