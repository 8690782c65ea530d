"""CIFAR forms of ResNet (He et al. 2016, section 4.2: 6n+2 layers), MobileNetV2 and VGG-16 with batch norm."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["pad", "conv"]

DEPTHS = (20, 32, 44, 56, 110)
WIDTHS = (16, 32, 64)

# (expansion, outputs, blocks, stride): stem and second stage have stride 1 here, and 2 for ImageNet.
MOBILENET_STAGES = (
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

# Widths of the 3x3 convolutions between two 2x2 max-poolings.
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


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
    """The shortcut of a block: identity if the shape stays, else zero padding or a 1x1 convolution with BN."""
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
        for expansion, outputs, repeats, stride in MOBILENET_STAGES:
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


class VGG16(nn.Module):
    """13 convolutions with BN and ReLU, five max-poolings, global average, one linear layer.

    (N, 3, H, W) -> logits (N, classes); H and W at least 32 pixels, because they are halved five times.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for stage in VGG_STAGES:
            for outputs in stage:
                layers += [
                    nn.Conv2d(width, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)
        init_convolutions_(self)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(self.features(x), 1)  # already 1x1 for 32x32 images
        logits: Tensor = self.classifier(pooled.flatten(1))
        return logits


def init_convolutions_(net: nn.Module) -> None:
    """Draw the convolutions of ``net`` from He's normal distribution (fan-out, ReLU); biases are zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
