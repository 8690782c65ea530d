from __future__ import annotations

import torch
from torch import nn

from slimsight.compress.models.cifar import InvertedResidual, MobileNetV2


def test_expanded_widths_sum_to_the_published_gates() -> None:
    blocks = [module for module in MobileNetV2(10).modules() if isinstance(module, InvertedResidual)]
    assert len(blocks) == 17
    assert sum(block.conv2.out_channels for block in blocks) == 7136
    assert all(block.conv2.groups == block.conv2.in_channels == block.conv2.out_channels for block in blocks)


def test_scales() -> None:
    net = MobileNetV2(10).eval()
    shapes: list[tuple[int, ...]] = []
    for module in (net.layers[5], net.layers[12], net.relu2):
        module.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert shapes == [(1, 32, 32, 32), (1, 96, 16, 16), (1, 1280, 8, 8)]


def test_residual_only_at_stride_one() -> None:
    x = torch.randn(2, 8, 6, 6)
    same, wider, strided = (InvertedResidual(8, outputs, 2, stride) for outputs, stride in ((8, 1), (12, 1), (8, 2)))
    for block in (same, wider, strided):
        nn.init.zeros_(block.eval().conv3.weight)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.shortcut(x))
    assert strided(x).shape == (2, 8, 3, 3)
    assert strided(x).abs().max() == 0
