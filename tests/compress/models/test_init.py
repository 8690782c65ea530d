from __future__ import annotations

import pytest
import torch
from torch import nn

from slimsight.compress.models.cifar import init_convolutions_


def test_spread_follows_the_fan_out() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3)
    init_convolutions_(conv)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    assert conv.bias is not None
    assert float(conv.bias.detach().abs().max()) == 0
