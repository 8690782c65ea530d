"""Explainers whose worth is known: one that knows where the object is, its opposite, and two that read nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from slimsight.compress.data import ImageSet
from slimsight.compress.explain import Saliency
from slimsight.compress.models import Classifier


@dataclass(frozen=True)
class Toy:
    """An explainer from a function of images."""

    name: str
    maps: object

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        return Saliency(self.maps(images))


@dataclass(frozen=True)
class InputGradient:
    """|d logit / d pixel|, the largest over colours."""

    classifier: Classifier
    name: str = "gradient"

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        images = images.clone().requires_grad_()
        logits = self.classifier(images)
        labels = logits.argmax(1) if labels is None else labels
        (found,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), images)
        return Saliency(found.gather(1, found.abs().argmax(1, keepdim=True))[:, 0], signed=True)


def object_maps(images: Tensor) -> Tensor:
    """1 on the bright patch of the tests' images, 0 elsewhere: full of ties."""
    return (images.amax(1) > 0.9).float()


def edge_maps(images: Tensor) -> Tensor:
    """Differences of neighbours' brightness: what an edge detector sees."""
    grey = images.mean(1)
    across = torch.zeros_like(grey)
    across[:, :, 1:] = (grey[:, :, 1:] - grey[:, :, :-1]).abs()
    across[:, 1:] += (grey[:, 1:] - grey[:, :-1]).abs()
    return across


@pytest.fixture(scope="session")
def oracle() -> Toy:
    return Toy("oracle", object_maps)


@pytest.fixture(scope="session")
def edges() -> Toy:
    return Toy("edges", edge_maps)


@pytest.fixture(scope="session")
def flat() -> Toy:
    return Toy("constant", lambda images: torch.ones_like(images[:, 0]))


@pytest.fixture(scope="session")
def chance() -> Callable[[Tensor], Tensor]:
    """Maps that know nothing: (N, 3, H, W) -> (N, H, W)."""
    return lambda images: torch.rand(images[:, 0].shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def gradient() -> type[InputGradient]:
    return InputGradient


@pytest.fixture
def many(val_images: ImageSet) -> Tensor:
    """(20, 3, 16, 16) in [0, 1]."""
    return torch.from_numpy(np.asarray(val_images.images[:])).float() / 255
