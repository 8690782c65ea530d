"""The prover is proven: what is wrong is found, what is not finite or not in time is not trusted."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import PruningError
from slimsight.compress.surgery import (
    ChannelGraph,
    PrunePlan,
    Slot,
    max_relative,
    prove_groups,
    slim_,
    trace_groups,
    verify,
)

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 1) for i, o in ((3, 6), (6, 6), (6, 6), (6, 6)))
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.d(self.c(self.b(self.a(images).relu()).relu()).relu()).relu()
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def planted(graph: ChannelGraph, name: str) -> ChannelGraph:
    """The graph with the channels of a group's consumer off by one."""
    groups = []
    for group in graph.groups:
        (slot,) = group.consumers
        wrong = Slot(slot.layer, slot.positions, (*slot.sources[1:], slot.sources[0]))
        groups.append(replace(group, consumers=(wrong,)) if group.name == name else group)
    return replace(graph, groups=tuple(groups))


@pytest.mark.parametrize("name", ["a", "c", "d"])
def test_a_wrong_index_map_is_found(name: str) -> None:
    network = Deep().eval()
    graph = trace_groups(network, IMAGES[:1])
    assert len(prove_groups(network, graph, IMAGES).groups) == 4
    found = prove_groups(network, planted(graph, name), IMAGES)
    reasons = {group.name: group.reason for group in found.frozen}
    assert set(reasons) == {name, "head"}
    assert "removing channels is not what closing them is" in reasons[name]


def test_a_head_that_starts_at_zero_hides_nothing() -> None:
    network = Deep().eval()
    with torch.no_grad():
        network.head.weight.zero_()
    found = prove_groups(network, planted(trace_groups(network, IMAGES[:1]), "b"), IMAGES)
    assert {group.name for group in found.frozen} == {"b", "head"}
    assert not network.head.weight.any()


def test_what_is_not_proven_in_time_is_frozen() -> None:
    network = Deep().eval()
    graph = trace_groups(network, IMAGES[:1])
    found = prove_groups(network, planted(graph, "a"), IMAGES, limit=0)
    assert not found.groups
    assert {group.reason for group in found.frozen if group.name != "head"} == {"it could not be proven within 0 s"}


def test_what_is_not_finite_proves_nothing() -> None:
    ones, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert max_relative([ones], [ones]) == 0
    assert max_relative([nan], [nan]) == float("inf")
    assert max_relative([ones], [nan]) == float("inf")
    network = Deep().eval()
    with torch.no_grad():
        network.head.bias.fill_(float("nan"))
    found = prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)
    assert not found.groups


def test_surgery_changes_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails at its third group, when two are cut already."""
    network = Deep().eval()
    network.b.requires_grad_(False)
    before, pointers = copy.deepcopy(network.state_dict()), [p.data_ptr() for p in network.parameters()]
    plan = PrunePlan(dict.fromkeys("abcd", (0, 2, 4)), dict.fromkeys("abcd", 6))
    calls = []
    remove = verify.slim_or_break_.__globals__["_remove"]

    def failing(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise PruningError("planted")
        remove(*arguments)

    monkeypatch.setitem(verify.slim_or_break_.__globals__, "_remove", failing)
    with pytest.raises(PruningError, match="planted"):
        slim_(network, plan, IMAGES[:1])
    assert [p.data_ptr() for p in network.parameters()] == pointers
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.c.out_channels == 6
    monkeypatch.undo()
    network.train()
    slim_(network, plan, IMAGES[:1])
    assert network.training
    assert (network.c.in_channels, network.c.out_channels) == (3, 3)
    assert [p.requires_grad for p in network.b.parameters()] == [False, False]
    assert all(p.requires_grad for p in network.c.parameters())
