"""MACs against closed forms and the figures that papers print."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ModelError
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


Body = Callable[["Loose", Tensor], Tensor]


class Loose(nn.Module):
    """A network whose forward pass is ``body``, with a weight of its own and a layer."""

    def __init__(self, body: Body, weight: tuple[int, ...] = (1,), layer: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.weight, self.layer = body, nn.Parameter(torch.rand(weight)), layer or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self, images)


def rows(net: Loose, images: Tensor) -> Tensor:
    """The layer on three steps of 64 numbers."""
    out = net.layer(images.flatten(2))
    return out[0] if isinstance(out, tuple) else out


def first_row(net: Loose, images: Tensor) -> Tensor:
    out = net.layer(images.flatten(2)[:, 0])
    return out[0] if isinstance(out, tuple) else out


LOOSE: dict[str, tuple[nn.Module, int]] = {
    "LSTM": (Loose(rows, layer=nn.LSTM(64, 7, batch_first=True)), 3 * 4 * 7 * (64 + 7)),
    "LSTM, two layers, two directions": (
        Loose(rows, layer=nn.LSTM(64, 7, 2, batch_first=True, bidirectional=True)),
        3 * 2 * (4 * 7 * (64 + 7) + 4 * 7 * (14 + 7)),
    ),
    "LSTM with a projection": (
        Loose(rows, layer=nn.LSTM(64, 7, batch_first=True, proj_size=3)),
        3 * (4 * 7 * (64 + 3) + 7 * 3),
    ),
    "GRU": (Loose(rows, layer=nn.GRU(64, 7, batch_first=True)), 3 * 3 * 7 * (64 + 7)),
    "RNN": (Loose(rows, layer=nn.RNN(64, 7, batch_first=True)), 3 * 7 * (64 + 7)),
    "GRUCell": (Loose(first_row, layer=nn.GRUCell(64, 7)), 3 * 7 * (64 + 7)),
    "F.linear": (Loose(lambda net, x: F.linear(x.mean((2, 3)), net.weight), (5, 3)), 15),
    "F.conv2d": (Loose(lambda net, x: F.conv2d(x, net.weight, padding=1), (5, 3, 3, 3)), 64 * 27 * 5),
    "a product": (Loose(lambda net, x: x.flatten(2) @ net.weight, (64, 5)), 3 * 64 * 5),
    "a product from the left": (Loose(lambda net, x: net.weight @ x.flatten(2), (5, 3)), 64 * 15),
    "a product with a vector": (Loose(lambda net, x: x.flatten(2).transpose(1, 2) @ net.weight, (3,)), 64 * 3),
    "between pooling and its inverse": (
        Loose(
            lambda net, x: F.max_unpool2d(*F.max_pool2d(net.layer(x), 2, return_indices=True), 2),
            layer=nn.Conv2d(3, 5, 3, padding=1),
        ),
        64 * 27 * 5,
    ),
    "einsum": (Loose(lambda net, x: torch.einsum("nchw,cd->ndhw", x, net.weight), (3, 5)), 64 * 15),
    "tensordot": (Loose(lambda net, x: torch.tensordot(x, net.weight, ([1], [0])), (3, 5)), 64 * 15),
    "a normalised weight": (Loose(lambda net, x: F.linear(x.mean((2, 3)), F.normalize(net.weight)), (5, 3)), 15),
    "maps (N, H, W, C)": (Loose(lambda net, x: net.layer(x.permute(0, 2, 3, 1)), layer=nn.Linear(3, 5)), 64 * 15),
    "transposed, grouped": (nn.ConvTranspose2d(3, 6, 3, groups=3), 64 * 6 * 9),
    "a scale": (Loose(lambda net, x: x * net.weight, (3, 1, 1)), 0),
    "a token": (Loose(lambda net, x: torch.cat([net.weight, x.flatten(2)], 1), (1, 1, 64)), 0),
    "attention's layers": (
        Loose(
            lambda net, x: net.layer(x.flatten(2), x.flatten(2), x.flatten(2))[0],
            layer=nn.MultiheadAttention(64, 2, batch_first=True),
        ),
        3 * 64 * 4 * 64,
    ),
}


@pytest.mark.parametrize("name", LOOSE)
def test_all_that_weights_are_multiplied_with_counts(name: str) -> None:
    model, macs = LOOSE[name]
    assert count_macs(model, torch.rand(1, 3, 8, 8)).total == macs


def test_deformable_convolutions_count() -> None:
    class Deform(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 5, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.conv(images, self.offset(images))
            return out

    count = count_macs(Deform(), torch.rand(1, 3, 8, 8))
    assert count.layers == {"offset": 64 * 27 * 18}
    assert count.total == 64 * 27 * (18 + 5)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Loose(lambda net, x: net.layer(x.mean((2, 3)), x.mean((2, 3))), layer=nn.Bilinear(3, 3, 5)), "_trilinear"),
        (Loose(lambda net, x: torch.cdist(x.mean((2, 3)), net.weight), (5, 3)), "_cdist_forward"),
    ],
)
def test_what_cannot_be_counted_is_named(model: nn.Module, name: str) -> None:
    with pytest.raises(ModelError, match=rf"the MACs of the operator '{name}', .* weight of shape \(5, 3"):
        count_macs(model, torch.rand(1, 3, 8, 8))


def test_packed_weights_are_refused() -> None:
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), {nn.Linear})
    with pytest.raises(ModelError, match=r"operator 'linear_dynamic', whose weights are packed, cannot be counted"):
        count_macs(packed, torch.rand(1, 3, 8, 8))


def test_sparse_weights_are_refused() -> None:
    model = Loose(lambda net, x: torch.sparse.mm(net.weight.to_sparse(), x.mean((2, 3)).T).T, (5, 3))
    with pytest.raises(ModelError, match=r"a tensor of layout torch\.sparse_coo.*make it dense"):
        count_macs(model, torch.rand(1, 3, 8, 8))


def test_extra_state_that_is_no_tensor_is_no_hindrance() -> None:
    class Extra(nn.Conv2d):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None:
            assert state == {"version": 1}

    model = Extra(3, 4, 1)
    assert count_macs(model, IMAGE).total == 12 * IMAGE.shape[2] * IMAGE.shape[3]
    assert model.get_extra_state() == {"version": 1}
    assert size_bytes(model) == 4 * 16
