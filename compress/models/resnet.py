"""CIFAR ResNets of He et al. 2016, section 4.2: 6n+2 layers, widths 16, 32, 64."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .init import init_convolutions_

Shortcut = Literal["pad", "conv"]

DEPTHS = (20, 32, 44, 56, 110)
WIDTHS = (16, 32, 64)


class PadShortcut(nn.Module):
    """He et al.'s option A: every ``stride``-th pixel; ``extra`` zero channels, half on each side.

    (N, C, H, W) -> (N, C + extra, H / stride, W / stride)
    """

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra={self.extra}"


def to_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The residual branch: identity where the shape stays, else zero padding or a 1x1 convolution with BN."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(stride, outputs - inputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = to_shortcut(shortcut, inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """Stem, three stages at full, half and quarter resolution, global average, one linear layer.

    (N, 3, H, W) -> logits (N, classes). ``layer1..3`` end after ReLU: 16@32, 32@16, 64@8 for H = 32.
    """

    def __init__(self, depth: int, classes: int, shortcut: Shortcut = "pad") -> None:
        super().__init__()
        assert depth % 6 == 2, f"depth is {depth}, not 6n+2"
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, WIDTHS[0], WIDTHS[0], 1, shortcut)
        self.layer2 = _stage(blocks, WIDTHS[0], WIDTHS[1], 2, shortcut)
        self.layer3 = _stage(blocks, WIDTHS[1], WIDTHS[2], 2, shortcut)
        self.linear = nn.Linear(WIDTHS[2], classes)
        init_convolutions_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))
