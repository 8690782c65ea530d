from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from slimsight.compress.models import VGG16, Classifier, MobileNetV2, ResNet
from slimsight.compress.progress import Progress

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20-pad": (lambda: ResNet(20, 10, "pad"), 32),
    "resnet20-conv": (lambda: ResNet(20, 10, "conv"), 32),
    "resnet56-pad": (lambda: ResNet(56, 10, "pad"), 32),
    "resnet56-conv": (lambda: ResNet(56, 10, "conv"), 32),
    "mobilenetv2": (lambda: MobileNetV2(10), 32),
    "vgg16": (lambda: VGG16(10), 32),
    "torchvision-resnet18": (lambda: torchvision_models.resnet18(weights=None, num_classes=10), 64),
}


@pytest.fixture(scope="module", params=list(MODELS))
def named_model(request: pytest.FixtureRequest) -> tuple[str, Classifier, int]:
    """Name, classifier in eval mode with batch-norm statistics that mean something, side of its images."""
    build, side = MODELS[request.param]
    torch.manual_seed(0)
    model = Classifier(build(), MEAN, STD)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return request.param, model.eval(), side


@pytest.fixture
def noting() -> tuple[Progress, list[str]]:
    """A progress, and the list where its notes go."""
    notes: list[str] = []

    class Noting:
        def track(self, items: Iterable[Any], what: str, **settings: object) -> Iterator[Any]:
            yield from items

        def show(self, **figures: float) -> None:
            pass

        def note(self, text: str) -> None:
            notes.append(text)

    return Noting(), notes
