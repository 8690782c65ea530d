"""A residual network on digits of 16 pixels, small enough to learn in a second."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.data import Batches, ImageSet


class Block(nn.Module):
    """conv1 can be routed; conv2 is added to the stream."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    """Stem, two blocks, linear: (N, 3, H, W) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.one = Block(8, 12)
        self.two = Block(8, 16)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def network() -> Residual:
    torch.manual_seed(3)
    return Residual().eval()


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """512 real digits as colour images of 8 pixels."""
    found = load_digits()
    pixels = np.repeat((found.images[:512, None] * 15.9).astype(np.uint8), 3, axis=1)
    return ImageSet(pixels, found.target[:512].astype(np.int64), tuple("0123456789"))


@pytest.fixture
def train(digits: ImageSet) -> Batches:
    return Batches(digits, 64, shuffle=True, drop_last=True)


@pytest.fixture
def val(digits: ImageSet) -> Batches:
    return Batches(digits, 128)
