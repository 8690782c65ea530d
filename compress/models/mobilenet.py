"""MobileNetV2 (Sandler et al. 2018) in the form CIFAR papers use: 304.1 M MACs at 32x32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .init import init_convolutions_

# (expansion, outputs, blocks, stride): stem and second stage have stride 1 here, and 2 for ImageNet.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 1),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_WIDTH = 32
LAST_WIDTH = 1280


class InvertedResidual(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project (linear). (N, C_in, H, W) -> (N, C_out, H / stride, W / stride).

    Three things differ from the ImageNet form (the published 304.1 M MACs need the first two): expansion 1
    keeps its 1x1 layer; stride 1 always has a residual, by 1x1 convolution and BN where the width changes;
    the activation is ReLU, not ReLU6.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if self.residual and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.relu1(self.bn1(self.conv1(x)))
        wide = self.relu2(self.bn2(self.conv2(wide)))
        out: Tensor = self.bn3(self.conv3(wide))
        return out + self.shortcut(x) if self.residual else out


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, a last 1x1 convolution, global average, one linear layer.

    (N, 3, H, W) -> logits (N, classes). For H = 32: 32@32 (``layers.5``), 96@16 (``layers.12``), 1280@8.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.relu1 = nn.ReLU()
        blocks: list[nn.Module] = []
        width = STEM_WIDTH
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(width, outputs, expansion, stride if index == 0 else 1))
                width = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, LAST_WIDTH, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST_WIDTH)
        self.relu2 = nn.ReLU()
        self.linear = nn.Linear(LAST_WIDTH, classes)
        init_convolutions_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(self.layers(x))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
