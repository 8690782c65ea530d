from __future__ import annotations

import torch
from torch import nn

from slimsight.compress.models.cifar import VGG16


def test_thirteen_convolutions_with_bn_and_one_linear_layer() -> None:
    net = VGG16(7)
    widths = [module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d)] == widths
    assert [tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Linear)] == [(7, 512)]


def test_takes_larger_images_too() -> None:
    net = VGG16(7).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
