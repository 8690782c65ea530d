"""VGG-16 with batch normalisation (Simonyan and Zisserman 2015) in its CIFAR form: one linear layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .init import init_convolutions_

# Widths of the 3x3 convolutions between two 2x2 max-poolings.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """13 convolutions with BN and ReLU, five max-poolings, global average, one linear layer.

    (N, 3, H, W) -> logits (N, classes); H and W at least 32 pixels, because they are halved five times.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for stage in STAGES:
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
