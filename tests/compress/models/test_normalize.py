from __future__ import annotations

import pytest
import torch
from torch import nn

from slimsight.compress.models import Classifier, Normalize

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)


def test_normalises_each_channel() -> None:
    x = torch.tensor([1.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    out = Normalize(MEAN, STD)(x)
    assert out[1, :, 3, 3].tolist() == [1.0, 1.0, 0.5]


def test_classifier_is_the_network_after_normalisation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(net, MEAN, STD)
    x = torch.rand(2, 3, 5, 5)
    assert torch.equal(model(x), net(model.normalize(x)))
    assert set(model.state_dict()) == {"normalize.mean", "normalize.std", "net.0.weight", "net.0.bias"}
    assert model.state_dict()["normalize.mean"].shape == (1, 3, 1, 1)


def test_zero_spread_is_refused() -> None:
    with pytest.raises(AssertionError, match="std is"):
        Normalize(MEAN, (1.0, 0.0, 1.0))
