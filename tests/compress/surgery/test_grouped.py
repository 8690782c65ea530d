"""Grouped convolutions: all groups keep the same places, and surgery is what closing is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import PruningError
from slimsight.compress.gates import CostModel
from slimsight.compress.macs import count_macs
from slimsight.compress.surgery import ChannelGraph, PrunePlan, gated_vs_slim, prove_groups, slim_, trace_groups

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def proven(network: nn.Module) -> ChannelGraph:
    return prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)


def chain(*middle: nn.Module, width: int) -> nn.Sequential:
    """3 -> 12 -> middle -> pooled -> 2 classes."""
    layers = (nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), *middle)
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)).double().eval()


def test_groups_keep_the_same_places() -> None:
    network = chain(nn.Conv2d(12, 24, 3, groups=3, padding=1), nn.ReLU(), width=24)
    graph = proven(network)
    assert [(group.name, group.channels) for group in graph.groups] == [("0", 4), ("3", 8)]
    (consumer,) = graph.group("0").consumers
    assert consumer.positions == tuple(range(12))
    assert consumer.sources == (0, 1, 2, 3) * 3

    plan = PrunePlan({"0": (1, 3), "3": (0, 2, 7)}, {"0": 4, "3": 8})
    slim = copy.deepcopy(network)
    slim_(slim, plan, IMAGES[:1])
    grouped = slim[3]
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (6, 9, 3)
    kept = [c for c in range(24) if c % 8 in (0, 2, 7)]
    before = network[3]
    assert isinstance(before, nn.Conv2d)
    assert torch.equal(grouped.weight, before.weight[kept][:, [1, 3]])
    assert gated_vs_slim(network, slim, graph.groups, plan, IMAGES) <= 1e-12
    cost = CostModel.of(network, IMAGES[:1], graph.groups)
    assert cost.total == count_macs(network, IMAGES[:1]).total
    assert cost.of_plan(plan) == count_macs(slim, IMAGES[:1]).total


def test_two_grouped_layers_tie_what_both_tie() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 1)
            self.twos = nn.Conv2d(12, 12, 3, padding=1, groups=2)
            self.threes = nn.Conv2d(12, 12, 3, padding=1, groups=3)
            self.head = nn.Linear(12, 2)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.stem(images).relu()
            logits: Tensor = self.head((self.twos(maps) + self.threes(maps)).mean((2, 3)))
            return logits

    # Groups of 6 and of 4 channels: what is equal modulo 6 or modulo 4 goes together, so modulo 2.
    graph = proven(Two().double().eval())
    assert {group.name: group.channels for group in graph.groups} == {"stem": 2, "twos": 2}


@pytest.mark.parametrize(("inputs", "groups"), [(12, 6), (12, 12)])
def test_what_is_tied_altogether_is_frozen_by_name(inputs: int, groups: int) -> None:
    """Twice as many outputs as inputs, in as many groups as inputs: no output can go without its input's other one."""
    network = chain(nn.Conv2d(inputs, 2 * inputs, 3, groups=groups, padding=1), nn.ReLU(), width=2 * inputs)
    graph = proven(network)
    reasons = {group.name: group.reason for group in graph.frozen}
    if groups == inputs:
        assert reasons["0"] == "the grouped convolution '3' ties all of its channels to each other"
    else:
        assert graph.group("0").channels == 2


def test_an_order_that_surgery_cannot_keep_is_frozen() -> None:
    class Shifted(nn.Module):
        """Three channels stand before the stem's in what the grouped convolution reads."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.stem = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 9, 1)
            self.join = nn.Conv2d(12, 12, 3, padding=1, groups=2)
            self.head = nn.Linear(12, 2)

        def forward(self, images: Tensor) -> Tensor:
            maps = torch.cat([self.first(images), self.stem(images)], 1).relu()
            logits: Tensor = self.head(self.join(maps).mean((2, 3)))
            return logits

    graph = proven(Shifted().double().eval())
    assert {group.name for group in graph.groups} == {"join"}
    assert {group.name for group in graph.frozen} == {"first", "stem", "head"}


def test_a_plan_of_a_narrower_model_is_no_plan_of_tied_channels() -> None:
    network = chain(nn.Conv2d(12, 12, 1), nn.ReLU(), width=12)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(PruningError, match=r"group '0' has 6 channels, the model has 12"):
        slim_(network, PrunePlan({"0": (0, 1)}, {"0": 6}), IMAGES[:1])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
