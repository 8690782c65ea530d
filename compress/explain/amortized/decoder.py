"""Decoder of the selector: feature filter and up-blocks on frozen features, a U-Net with the backbone as encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pyramid import FeatureScale


class ResidualBlock(nn.Module):
    """Basic block with a projection: conv3x3, BN, ReLU, conv3x3, BN, plus a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(inner + self.bn3(self.shortcut(maps)))


class UpBlock(nn.Module):
    """Doubles the resolution and joins the backbone's features (ISP supplement; one block as in the released code)."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4 * outputs)
        self.shuffle = nn.PixelShuffle(2)
        self.block = ResidualBlock(skip + outputs, outputs)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        # The released code applies ReLU to the shuffled maps again: they are not negative, so it is left out.
        maps = self.shuffle(F.relu(self.bn(self.conv(maps))))
        if maps.shape[2:] != skip.shape[2:]:  # backbones that round an odd size up
            maps = F.interpolate(maps, size=skip.shape[2:], mode="nearest")
        # The skip stands first: a dependency graph then finds its channels at offset 0.
        return F.relu(self.block(torch.cat([skip, maps], 1)))


class Decoder(nn.Module):
    """Feature filter and up-blocks on frozen features (see ``find_scales``); a head reads its output."""

    def __init__(self, scales: Sequence[FeatureScale], classes: int) -> None:
        super().__init__()
        self.scales = tuple(scales)
        deepest, *finer = self.scales
        self.filter = nn.Conv2d(deepest.channels, classes, 1, bias=False)
        """The class embeddings C_y as one 1x1 convolution: X_ij . C_y for every class y."""
        self.width, ups = deepest.channels, []
        for scale in finer:
            ups.append(UpBlock(self.width, scale.channels, scale.channels))
            self.width = scale.channels
        self.ups = nn.ModuleList(ups)

    def decode(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """(N, width, s, s) maps at the finest scale, for features (coarse to fine) and class labels (N,)."""
        maps = features[0]
        evidence = self.filter(maps).gather(1, labels.view(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:]))
        maps = maps * torch.sigmoid(evidence)
        for up, skip in zip(self.ups, features[1:], strict=True):
            maps = up(maps, skip)
        return maps

    def backbone_readers(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of every layer that reads the backbone: all that couples the two for surgery.

        A dependency graph can follow neither the factor of ``filter`` (one channel, broadcast) nor PixelShuffle;
        no later layer depends on the backbone's channels.
        """
        deepest = features[0]
        outputs = [self.filter(deepest)]
        for index, (up, skip) in enumerate(zip(self.ups, features[1:], strict=True)):
            assert isinstance(up, UpBlock)
            if index == 0:
                outputs.append(up.conv(deepest))
            joined = torch.cat([skip, skip.new_zeros(len(skip), up.outputs, *skip.shape[2:])], 1)
            outputs += [up.block.conv1(joined), up.block.shortcut(joined)]
        return outputs
