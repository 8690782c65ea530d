"""A small world for explainers: 16-pixel images whose class is the colour of a patch, and a network that sees it."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig, TrainConfig
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.explain import ExplainedClassifier, Selector, find_scales
from slimsight.compress.finetune import train_classifier
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning, make_fabric

SIDE, CLASSES = 16, 3


def patches(count: int, seed: int) -> ImageSet:
    """Dark noise with one bright 5x5 patch anywhere; its colour channel is the label."""
    random = np.random.default_rng(seed)
    images = random.integers(60, 120, (count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    corners = random.integers(0, SIDE - 4, (count, 2))
    for image, label, (row, column) in zip(images, labels, corners, strict=True):
        image[label, row : row + 5, column : column + 5] = 250
    return ImageSet(images, labels, ("red", "green", "blue"))


def to_tiny() -> Classifier:
    """Untrained; 8 maps of 16 pixels, 12 of 8 and 16 of 4."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = 3
    for index, (outputs, stride) in enumerate([(8, 1), (12, 2), (16, 2)], 1):
        layers[f"conv{index}"] = nn.Conv2d(width, outputs, 3, stride, padding=1, bias=False)
        layers[f"bn{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}"] = nn.ReLU()
        width = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(width, CLASSES)
    config = ModelConfig()
    return Classifier(nn.Sequential(layers), config.mean, config.std)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    return make_fabric(accelerator="cpu")


@pytest.fixture(scope="session")
def train_images() -> ImageSet:
    return patches(64, seed=1)


@pytest.fixture(scope="session")
def val_images() -> ImageSet:
    return patches(20, seed=2)


@pytest.fixture
def train(train_images: ImageSet) -> Batches:
    return Batches(train_images, 16, shuffle=True)


@pytest.fixture
def val(val_images: ImageSet) -> Batches:
    """The last batch is ragged."""
    return Batches(val_images, 8)


@pytest.fixture(scope="session")
def trained(fabric: Fabric, train_images: ImageSet) -> Classifier:
    torch.manual_seed(0)
    model = to_tiny()
    batches = Batches(train_images, 16, shuffle=True)
    train_classifier(model, batches, Learning(fabric), config=TrainConfig(epochs=15, lr=0.1))
    return model


@pytest.fixture
def classifier(trained: Classifier) -> Classifier:
    """A trained classifier of one's own, in eval mode."""
    return copy.deepcopy(trained)


@pytest.fixture
def network(classifier: Classifier) -> ExplainedClassifier:
    """The trained classifier with a selector that has learned nothing, in eval mode."""
    torch.manual_seed(1)
    scales = find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE))
    return ExplainedClassifier(classifier, Selector(scales, CLASSES, SIDE)).eval()


@pytest.fixture
def images(val_images: ImageSet) -> Tensor:
    """(6, 3, 16, 16) two of each class, in [0, 1]."""
    return torch.from_numpy(np.asarray(val_images.images[:6])).float() / 255
