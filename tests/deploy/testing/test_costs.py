"""Assertions on what can be counted, against figures worked out by hand."""

from __future__ import annotations

import re
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.deploy.testing.arguments import is_share
from slimsight.testing import assert_macs, assert_params, assert_size

STEM, BODY, HEAD = 3 * 8 * 9 * 64, 8 * 16 * 9 * 64, 16 * 10
MACS = STEM + BODY + HEAD


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.norm(self.stem(images)).relu()).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().eval()


@pytest.mark.parametrize(
    "x",
    ["3x8x8", (3, 8, 8), [3, 8, 8], (4, 3, 8, 8), torch.rand(3, 8, 8), torch.rand(2, 3, 8, 8)],
    ids=["text", "shape", "list", "shape of a batch", "image", "batch"],
)
def test_macs_of_one_image_whatever_says_its_shape(net: Net, x: Any) -> None:
    assert assert_macs(net, x, max=MACS) == MACS
    with pytest.raises(AssertionError):
        assert_macs(net, x, max=MACS - 1)


def test_a_failure_says_by_how_much_and_where(net: Net) -> None:
    with pytest.raises(AssertionError) as failed:
        assert_macs(net, "3x8x8", max="50k")
    assert str(failed.value).splitlines() == [
        "MACs: 0.09 M, at most 0.05 M allowed: 0.04 M too much, 75.4 % over",
        "layers with most MACs:",
        "  body  0.07 M  84.1 %",
        "  stem  0.01 M  15.8 %",
        "  head  0.00 M   0.2 %",
    ]


def test_what_failed_never_looks_allowed(net: Net) -> None:
    with pytest.raises(AssertionError, match=f"MACs: {MACS:,}, at most {MACS - 1:,} allowed"):
        assert_macs(net, "3x8x8", max=MACS - 1)


def test_shares_of_another_model(net: Net) -> None:
    wide = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 10))
    total = STEM + 8 * 64 * 10
    assert assert_macs(wide, "3x8x8", max="50%", against=net) == total
    with pytest.raises(AssertionError, match=re.escape("at most 0.01 M (10.0 % of 0.09 M) allowed")):
        assert_macs(wide, "3x8x8", max=0.1, against=net)
    assert assert_params(net, max="100%", against=net) == sum(p.numel() for p in net.parameters())


def test_parameters_and_bytes(net: Net) -> None:
    params = (3 * 8 * 9 + 8) + 16 + (8 * 16 * 9 + 16) + (16 * 10 + 10)
    assert assert_params(net, max="2k") == params
    with pytest.raises(AssertionError, match=r"parameters: 1,578, at most 1,000 allowed: 578 too much, 57.8 % over"):
        assert_params(net, max="1k")
    size = 4 * params + 2 * 8 * 4 + 8  # running mean and variance; the count of batches is an int64
    assert assert_size(net, max="7kB") == size
    with pytest.raises(AssertionError) as failed:
        assert_size(net, max=1000)
    assert str(failed.value).splitlines()[1:3] == ["largest layers:", f"  body    4.67 kB  {100 * 4672 / size:.1f} %"]


def test_the_model_comes_back_as_it_was(net: Net) -> None:
    model = Net().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_macs(model, "3x8x8", max="1M")
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "3x8"}, r"x is '3x8': give images .* such as '3x224x224' or \(3, 224, 224\)"),
        ({"x": (3, 8, True)}, r"x is \(3, 8, True\)"),
        ({"x": 224}, "x is 224"),
        ({"x": torch.zeros(3, 8, 8, dtype=torch.uint8)}, r"x is a tensor \(3, 8, 8\) torch.uint8"),
        ({"max": "60 apples"}, "max: '60 apples' is not a valid limit on MACs"),
        ({"max": "60"}, "max: '60' is neither a ratio nor a plausible amount of MACs"),
        ({"max": "50%"}, r"max='50%' is a share of another model's: say of which \(against=original\)"),
        ({"against": Net()}, "against= gives a model that it does not refer to"),
        ({"max": "50%", "against": "model.onnx"}, "against is of type str: give a torch.nn.Module"),
        ({"model": Net}, "model is the class Net: give a torch.nn.Module; call it first"),
        ({"model": "model.onnx"}, "model is of type str: give a torch.nn.Module; files are for 'slimsight check'"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(net: Net, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failed:
        assert_macs(**{"model": net, "x": "3x8x8", "max": "1M", **options})
    assert "\n" not in str(failed.value)


def test_images_of_the_wrong_shape_are_the_model_s_to_refuse_in_a_sentence(net: Net) -> None:
    with pytest.raises(
        ModelError, match=r"the model does not take 1x8x8 images: RuntimeError: .*test_costs.py, line"
    ) as it:
        assert_macs(net, "1x8x8", max="1M")
    frames = [frame.name for frame in traceback.extract_tb(it.value.__traceback__)]
    assert frames[-2:] == ["assert_macs", "value_or_raise"], "the rest of the traceback is nobody's to read"


def test_a_share_is_exact_whatever_floats_do() -> None:
    hundred = nn.Linear(100, 1, bias=False)  # .29 * 100 is 28.999999999999996
    assert assert_params(nn.Linear(29, 1, bias=False), "29%", against=hundred) == 29
    with pytest.raises(AssertionError, match=r"parameters: 30, at most 29 \(29.0 % of 100\) allowed"):
        assert_params(nn.Linear(30, 1, bias=False), "29%", against=hundred)


@pytest.mark.parametrize(
    ("given", "share"),
    [("50%", True), (0.5, True), ("0.5", True), (1, True), ("60M", False), (4e9, False), ("x", False)],
)
def test_which_limits_are_shares_of_another_model(given: object, share: bool) -> None:
    assert is_share(given) is share
