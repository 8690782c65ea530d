"""Every spelling of an activation is seen, call by call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.explain.attribution.neurons import RELUS, ReplacedActivations

SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "function in place by position": lambda x: F.relu(x, True),
    "by keyword": lambda x: F.relu(input=x),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "silu": nn.SiLU(),
    "silu in place": nn.SiLU(inplace=True),
    "gelu": nn.GELU(),
    "hardswish": nn.Hardswish(),
    "hardswish in place": nn.Hardswish(inplace=True),
    "leaky": nn.LeakyReLU(0.1, inplace=True),
    "prelu": nn.PReLU(),
    "elu": nn.ELU(),
    "mish": nn.Mish(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
    "hardtanh": nn.Hardtanh(inplace=True),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_output_is_replaced_and_gradients_follow(spelling: str) -> None:
    activation = SPELLINGS[spelling]
    start = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = activation(start * 1)
    (expected,) = torch.autograd.grad(plain.sum(), start)
    before = start * 1
    with ReplacedActivations(lambda index, output: output * (2 + index), spatial=True) as mode:
        found = activation(before)
    torch.testing.assert_close(found, plain * 2)
    assert mode.calls == 1
    assert (found is before) == ("place" in spelling or spelling in ("leaky", "hardtanh"))
    torch.testing.assert_close(torch.autograd.grad(found.sum(), start)[0], expected * 2)


def test_an_in_place_call_whose_result_nobody_takes() -> None:
    maps = torch.full((1, 1, 2, 2), 3.0)
    with ReplacedActivations(lambda _, output: output * 0, spatial=True):
        F.relu_(maps)
    assert maps.eq(0).all()


def test_a_module_used_twice_is_two_calls() -> None:
    relu, seen = nn.ReLU(), []
    with ReplacedActivations(lambda index, output: seen.append(index) or output, spatial=True):
        relu(relu(torch.ones(1, 1, 2, 2)) - 2)
    assert seen == [0, 1]


def test_what_is_no_feature_map_is_left_out() -> None:
    with ReplacedActivations(lambda _, output: output * 0, spatial=True) as mode:
        assert F.relu(torch.ones(2, 5)).sum() == 10
        assert F.relu(torch.ones(2, 5, 1, 1)).sum() == 10
        assert mode.calls == 0
    with ReplacedActivations(lambda _, output: output * 0, spatial=False):
        assert F.relu(torch.ones(2, 5)).sum() == 0


def test_only_relus() -> None:
    with ReplacedActivations(lambda _, output: output * 0, RELUS, spatial=True) as mode:
        F.silu(torch.ones(1, 1, 2, 2))
        F.relu6(torch.ones(1, 1, 2, 2))
    assert mode.calls == 1
