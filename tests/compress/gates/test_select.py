import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimsight.compress.errors import PruningError
from slimsight.compress.gates import CostModel, magnitude, select, smallest_macs, uniform
from slimsight.compress.surgery import ChannelGraph, trace_groups

WIDTHS = (16, 48, 24, 64)


class Chain(nn.Module):
    """Four convolutions in a row and a linear layer: a group per convolution."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *WIDTHS)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(WIDTHS[-1], 5)

    def forward(self, images: Tensor) -> Tensor:
        for conv in self.convs:
            images = conv(images).relu()
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def network() -> Chain:
    torch.manual_seed(0)
    return Chain().eval()


@pytest.fixture(scope="module")
def graph(network: Chain) -> ChannelGraph:
    return trace_groups(network, torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def cost(network: Chain, graph: ChannelGraph) -> CostModel:
    return CostModel.of(network, torch.zeros(1, 3, 8, 8), graph.groups)


def scores_of(cost: CostModel, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(width, generator=draw) for name, width in zip(cost.names, cost.widths, strict=True)}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), kept=st.floats(0.05, 0.95))
def test_a_plan_is_within_one_percent_below_its_budget(cost: CostModel, seed: int, kept: float) -> None:
    budget = kept * cost.total
    found = select(cost, scores_of(cost, seed), budget=budget)
    assert 0.99 * budget <= found.macs <= budget
    assert found.macs == cost.of_plan(found.plan)
    assert found.gap == pytest.approx(1 - found.macs / budget)
    assert min(len(channels) for channels in found.plan.kept.values()) >= 1


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), kept=st.floats(0.2, 0.9), align=st.sampled_from([4, 8, 16]))
def test_widths_are_multiples_where_a_group_is_large_enough(
    cost: CostModel, seed: int, kept: float, align: int
) -> None:
    budget = max(kept * cost.total, smallest_macs(cost, align))
    found = select(cost, scores_of(cost, seed), budget=budget, align=align)
    assert found.macs <= budget
    for name, channels in found.plan.kept.items():
        width = found.plan.widths[name]
        if width >= 2 * align:
            assert len(channels) % align == 0 or len(channels) == width


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6))
def test_a_group_keeps_its_highest_scores(cost: CostModel, seed: int) -> None:
    scores = scores_of(cost, seed)
    plan = select(cost, scores, budget=0.4 * cost.total).plan
    for name, channels in plan.kept.items():
        best = torch.argsort(scores[name], descending=True)[: len(channels)]
        assert set(channels) == set(best.tolist())


def test_equal_scores_give_equal_plans(cost: CostModel) -> None:
    scores = {name: torch.zeros(width) for name, width in zip(cost.names, cost.widths, strict=True)}
    first, again = (select(cost, scores, budget=0.5 * cost.total).plan for _ in range(2))
    assert first == again


def test_a_budget_below_the_smallest_plan_is_refused_with_that_plan(cost: CostModel) -> None:
    smallest = smallest_macs(cost, 8)
    with pytest.raises(PruningError, match=rf"cannot be reached.*{smallest / 1e6:.3f} M.*lower budget.align"):
        select(cost, scores_of(cost, 0), budget=smallest - 1, align=8)
    assert select(cost, scores_of(cost, 0), budget=smallest, align=8).macs == smallest


def test_a_budget_that_removes_nothing_is_refused(cost: CostModel) -> None:
    with pytest.raises(PruningError, match=r"nothing would shrink; lower budget\.macs"):
        select(cost, scores_of(cost, 0), budget=cost.total)


def test_magnitude_is_comparable_across_groups(network: Chain, graph: ChannelGraph) -> None:
    scores = magnitude(network, graph.groups)
    for name, score in scores.items():
        assert float(score.mean()) == pytest.approx(1), name
    layer = graph.groups[1].name
    weight = network.get_submodule(layer).weight.detach().double()
    norms = weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(scores[layer], norms / norms.mean())


def test_uniform_takes_the_same_share_of_every_group(network: Chain, graph: ChannelGraph, cost: CostModel) -> None:
    plan = select(cost, uniform(network, graph.groups), budget=0.3 * cost.total).plan
    shares = [len(kept) / plan.widths[name] for name, kept in plan.kept.items()]
    assert max(shares) - min(shares) <= 1.5 / min(WIDTHS)
