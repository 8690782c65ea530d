"""Small networks with what makes exports fail, exported once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import resnet18

from slimsight.export.pt2.export import export_pt2
from slimsight.export.to_onnx import export_onnx


class PadShortcut(nn.Module):
    """A strided residual block whose shortcut subsamples and pads channels with zeros (option A)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.pad = (0, 0, 0, 0, width // 2, width - width // 2)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(branch + F.pad(x[:, :, ::2, ::2], self.pad))


class Mixed(nn.Module):
    """Normalisation, a pad shortcut, depthwise and grouped convolutions, a head that is never used."""

    def __init__(self, inner: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.45))
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.block = PadShortcut(8, inner)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 12, 1, groups=4)
        self.unused = nn.Linear(5, 5)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.bn(self.stem((x - self.mean) / 0.25))))
        x = self.grouped(F.relu6(self.depthwise(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Case(NamedTuple):
    """A model in eval mode with its artefacts; ``side`` of its images in pixels."""

    model: nn.Module
    side: int
    onnx: Path
    pt2: Path

    def images(self, count: int) -> NDArray[np.uint8]:
        shape = (count, 3, self.side, self.side)
        return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def _shake(model: nn.Module) -> nn.Module:
    """Give BatchNorm statistics that folding cannot ignore."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session")
def to_mixed() -> Callable[[int], nn.Module]:
    """Build a Mixed with ``inner`` channels inside its block."""

    def build(inner: int) -> nn.Module:
        torch.manual_seed(inner)
        return _shake(Mixed(inner))

    return build


@pytest.fixture(scope="session", params=["mixed", "resnet18"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each model and its files, made once."""
    torch.manual_seed(10)
    model, side = (_shake(Mixed()), 16) if request.param == "mixed" else (_shake(resnet18(num_classes=20)), 64)
    folder = tmp_path_factory.mktemp(request.param)
    found = Case(model, side, folder / "model.onnx", folder / "model.pt2")
    # One image: the free batch size must not depend on the example's.
    example = torch.rand(1, 3, side, side)
    export_onnx(model, example, found.onnx)
    export_pt2(model, example, found.pt2)
    return found
