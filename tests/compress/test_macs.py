"""MACs against closed forms and the figures that papers print."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.macs import MacsCount, count_macs, count_params, size_bytes
from slimsight.compress.models import build_classifier

IMAGE = torch.zeros(1, 3, 32, 32)


def resnet_macs(depth: int, classes: int, shortcut: str) -> int:
    """HW k^2 C_in C_out, summed by hand over He et al.'s table for 32x32 images."""
    blocks = (depth - 2) // 6
    macs = 32 * 32 * 9 * 3 * 16
    for inputs, outputs, side in ((16, 16, 32), (16, 32, 16), (32, 64, 8)):
        pixels = side * side
        macs += pixels * 9 * outputs * (inputs + (2 * blocks - 1) * outputs)
        if shortcut == "conv" and inputs != outputs:
            macs += pixels * inputs * outputs
    return macs + 64 * classes


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnets_cost_what_the_closed_form_says(depth: int, shortcut: str) -> None:
    model = build_classifier(ModelConfig.model_validate({"name": f"resnet{depth}", "shortcut": shortcut}), 10)
    assert count_macs(model, IMAGE).total == resnet_macs(depth, 10, shortcut)


@pytest.mark.parametrize(
    ("config", "macs", "params"),
    [
        ({"name": "resnet20"}, 40_551_040, 269_722),
        ({"name": "resnet56"}, 125_485_696, 853_018),  # ISP: 125.49 M
        ({"name": "resnet56", "shortcut": "conv"}, 125_747_840, 855_770),  # DRIB: 125.8 M
        ({"name": "resnet110"}, 252_887_680, 1_727_962),
        ({"name": "mobilenetv2"}, 304_075_264, 2_297_754),  # ISP: 304.1 M
        ({"name": "vgg16"}, 313_201_664, 14_724_042),  # DRIB: 313.2 M
    ],
    ids=str,
)
def test_published_figures(config: dict[str, str], macs: int, params: int) -> None:
    model = build_classifier(ModelConfig.model_validate(config), 10)
    assert count_macs(model, IMAGE).total == macs
    assert count_params(model) == params


def test_layers_are_named_as_in_the_model_and_sum_to_the_total() -> None:
    model = build_classifier(ModelConfig(name="resnet20"), 10)
    count = count_macs(model, IMAGE)
    assert count.layers["net.conv1"] == 32 * 32 * 9 * 3 * 16
    assert count.layers["net.layer3.0.conv1"] == 8 * 8 * 9 * 32 * 64
    assert count.layers["net.linear"] == 640
    assert len(count.layers) == 20
    assert sum(count.layers.values()) == count.total


@settings(max_examples=15, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    side=st.integers(5, 12),
    bias=st.booleans(),
)
def test_one_convolution(
    groups: int, inputs: int, outputs: int, kernel: int, stride: int, side: int, bias: bool
) -> None:
    conv = nn.Conv2d(groups * inputs, groups * outputs, kernel, stride, groups=groups, bias=bias)
    out_side = (side - kernel) // stride + 1
    expected = out_side**2 * kernel**2 * inputs * outputs * groups
    count = count_macs(conv, torch.zeros(1, groups * inputs, side, side))
    assert count == MacsCount(expected, {"": expected})


class Odd(nn.Module):
    """All that is awkward: a frozen BN, an unused layer, a shared one, a functional one, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.unused = nn.Linear(7, 7)
        self.weight = nn.Parameter(torch.ones(5, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(self.shared(self.shared(self.conv(x))))
        return nn.functional.linear(x.mean((2, 3)), self.weight), torch.softmax(x, 1)


def test_awkward_network() -> None:
    count = count_macs(Odd(), torch.zeros(1, 3, 2, 2))
    assert count.layers == {"conv": 4 * 12, "shared": 2 * 4 * 16, "unused": 0}
    assert count.total == 4 * 12 + 2 * 4 * 16 + 20


def test_leaves_modes_statistics_and_gradients_alone() -> None:
    model = Odd().train()
    model.shared.eval()
    model.bn.momentum = 1.0
    count_macs(model, torch.ones(1, 3, 2, 2))
    assert [model.training, model.shared.training, model.bn.training] == [True, False, True]
    assert model.bn.running_mean is not None
    assert model.bn.running_mean.abs().max() == 0
    assert torch.is_grad_enabled()


def test_modes_come_back_when_the_model_fails() -> None:
    model = Odd().train()
    with pytest.raises(RuntimeError, match="expected input"):
        count_macs(model, torch.zeros(1, 5, 2, 2))
    assert all(module.training for module in model.modules())


def test_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_macs(Odd(), torch.zeros(1, 3, 2, 2))
    assert caplog.records == []


def test_params_and_bytes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert count_params(model) == 4 * 27 + 4 + 8
    # Parameters, running mean and variance in float32; num_batches_tracked in int64.
    assert size_bytes(model) == 4 * (4 * 27 + 4 + 8 + 8) + 8
    assert size_bytes(model.half()) == 2 * (4 * 27 + 4 + 8 + 8) + 8
