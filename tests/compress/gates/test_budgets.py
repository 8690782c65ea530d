"""Several budgets at once, on five models: none exceeded, the tightest used up, counted as the slim model counts."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import models as torchvision_models

from slimsight.compress.errors import PruningError
from slimsight.compress.gates import CostModel, magnitude, select, select_fast, smallest_amounts
from slimsight.compress.gates.cost import Floats, Resource
from slimsight.compress.gates.prices import channel_values
from slimsight.compress.gates.widths import Widths, allowed_widths
from slimsight.compress.macs import count_macs, count_params, size_bytes
from slimsight.compress.models import VGG16, MobileNetV2, ResNet
from slimsight.compress.surgery import ChannelGraph, ChannelGroup, Slot, slim_, trace_groups

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: ResNet(20, 10, "conv"), 32),
    "resnet56": (lambda: ResNet(56, 10, "conv"), 32),
    "mobilenetv2": (lambda: MobileNetV2(10), 32),
    "vgg16": (lambda: VGG16(10), 32),
    "resnet18": (lambda: torchvision_models.resnet18(weights=None), 64),
}
Case = tuple[nn.Module, Tensor, ChannelGraph, CostModel]


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest) -> Case:
    build, side = MODELS[request.param]
    torch.manual_seed(0)
    model, example = build().eval(), torch.zeros(1, 3, side, side)
    graph = trace_groups(model, example)
    return model, example, graph, CostModel.of(model, example, graph.groups)


def scores_of(cost: CostModel, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(width, generator=draw) + 2 * torch.randn((), generator=draw)
        for name, width in zip(cost.names, cost.widths, strict=True)
    }


def test_random_gates_meet_every_budget(case: Case) -> None:
    cost = case[-1]

    @settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @given(
        seed=st.integers(0, 10**6),
        shares=st.fixed_dictionaries(
            {}, optional={name: st.floats(0.2, 0.95) for name in ("macs", "params", "size")}
        ).filter(bool),
        align=st.sampled_from([1, 1, 8]),
    )
    def meets(seed: int, shares: dict[str, float], align: int) -> None:
        least, totals = smallest_amounts(cost, align), cost.totals
        budget = {name: max(share * totals[name], least[name]) for name, share in shares.items()}
        found = select(cost, scores_of(cost, seed), budget=budget, align=align)
        assert all(found.used[name] <= limit for name, limit in budget.items())
        assert min(len(kept) for kept in found.plan.kept.values()) >= 1
        if align == 1:
            assert found.gap <= 0.01
        else:  # not one more step of any group fits
            assert not can_widen(cost, found.plan.kept, budget, align)

    meets()


def can_widen(cost: CostModel, kept: dict[str, tuple[int, ...]], budget: dict[str, float], align: int) -> bool:
    scores = {
        n: torch.zeros(w).index_fill(0, torch.tensor(kept[n]), 1.0)
        for n, w in zip(cost.names, cost.widths, strict=True)
    }
    widths = Widths(cost, scores, budget, align)
    widths.set_all([int(np.searchsorted(a, len(kept[n]))) for n, a in zip(cost.names, widths.allowed, strict=True)])
    return any(
        widths.within(widths.trial(group, [choice + 1]))[0]
        for group, choice in enumerate(widths.choice)
        if choice + 1 < len(widths.allowed[group])
    )


def test_the_same_gates_give_the_same_plan_and_it_costs_what_was_counted(case: Case) -> None:
    model, example, _, cost = case
    budget = {"macs": 0.5 * cost.totals["macs"], "params": 0.35 * cost.totals["params"]}
    first, again = (select(cost, scores_of(cost, 3), budget=budget) for _ in range(2))
    assert first == again
    slim = copy.deepcopy(model)
    slim_(slim, first.plan, example)
    counted = {"macs": count_macs(slim, example).total, "params": count_params(slim), "size": size_bytes(slim)}
    assert dict(first.used) == counted


def test_scores_count_by_their_order_alone(case: Case) -> None:
    model, _, graph, cost = case
    scores = magnitude(model, graph.groups)
    budget = {"macs": 0.5 * cost.totals["macs"], "params": 0.35 * cost.totals["params"]}
    risen = {name: score.exp() * 7 - 100 for name, score in scores.items()}
    assert select(cost, scores, budget=budget, align=1).plan == select(cost, risen, budget=budget, align=1).plan
    for one, other in zip(channel_values(cost, scores), channel_values(cost, risen), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_budget_that_does_not_bind_changes_nothing(case: Case) -> None:
    cost = case[-1]
    macs = 0.4 * cost.total
    alone = select(cost, scores_of(cost, 1), budget=macs)
    loose = {"macs": macs, "params": cost.totals["params"], "size": cost.totals["size"]}
    assert select(cost, scores_of(cost, 1), budget=loose).plan == alone.plan


def test_the_search_is_worth_more_than_one_threshold(case: Case) -> None:
    """The threshold that holds both limits is the plan to beat."""
    from slimsight.compress.gates.threshold import cut_by_threshold, removal_order

    cost, scores = case[-1], scores_of(case[-1], 5)
    budget = {"macs": 0.6 * cost.totals["macs"], "params": 0.3 * cost.totals["params"]}
    widths = Widths(cost, scores, budget)
    cut_by_threshold(widths, removal_order(widths, scores))
    values = dict(zip(cost.names, channel_values(cost, scores), strict=True))

    def worth(kept: dict[str, tuple[int, ...]]) -> float:
        return sum(float(values[name][list(channels)].sum()) for name, channels in kept.items())

    assert worth(select(cost, scores, budget=budget).plan.kept) > worth(widths.plan().kept)


@dataclass(frozen=True)
class SlowEarly:
    """ms: the MACs of a layer, and once more for every pixel's channel: early layers take longer than their MACs."""

    macs: Resource
    constant: float = 0.0

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        pixels = self.macs.pair[rows, None]
        return 1e-6 * self.macs.of(rows, inputs, outputs) + 1e-3 * pixels * outputs


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_plans_paid_for_in_time_are_faster_within_the_same_macs(case: Case, share: float) -> None:
    cost = case[-1].timed(SlowEarly(case[-1].resources["macs"]))
    scores, budget = scores_of(cost, 2), {"macs": share * cost.total}
    by_macs = cost.amounts(select(cost, scores, budget=budget, align=8).plan)
    found = select_fast(cost, scores, budget=budget, align=8)
    assert found.used["macs"] <= budget["macs"]
    assert found.budget == budget
    assert found.used["latency"] <= (0.95 if share == 0.5 else 1) * by_macs["latency"]
    assert found.used == cost.amounts(found.plan)
    assert found.used["macs"] > 0.85 * budget["macs"]


def test_plans_paid_for_in_time_meet_every_other_limit(case: Case) -> None:
    cost = case[-1].timed(SlowEarly(case[-1].resources["macs"]))
    budget = {"macs": 0.6 * cost.total, "params": 0.3 * cost.totals["params"]}
    used = select_fast(cost, scores_of(cost, 2), budget=budget).used
    assert all(used[name] <= limit for name, limit in budget.items())


def test_a_budget_out_of_reach_is_named(case: Case) -> None:
    cost = case[-1]
    budget = {"macs": 0.5 * cost.total, "params": 10.0}
    with pytest.raises(PruningError, match=r"M parameters .* cannot be reached: .* raise budget\.params to at least"):
        select(cost, scores_of(cost, 0), budget=budget)


def test_widths_allowed() -> None:
    assert allowed_widths(40, 16).tolist() == [16, 32, 40]
    assert allowed_widths(16, 16).tolist() == [8, 16]  # narrower than two multiples: half the multiple
    assert allowed_widths(3, 16).tolist() == [1, 2, 3]
    assert allowed_widths(32, 16, per_channel=32).tolist() == list(range(1, 33))
    assert allowed_widths(32, 16, per_channel=8).tolist() == list(range(2, 33, 2))


def test_a_grouped_convolution_counts_each_filter_once() -> None:
    """4 groups of 3 -> 2: closing the k-th input of every group takes 1 of the 3 inputs that each filter reads."""
    model = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.Conv2d(12, 8, 3, padding=1, groups=4, bias=False))
    group = ChannelGroup(
        "0",
        3,
        (Slot("0", tuple(range(12)), tuple(k % 3 for k in range(12))),),
        (Slot("1", tuple(range(12)), tuple(k % 3 for k in range(12))),),
        (),
    )
    cost = CostModel.of(model, torch.zeros(1, 3, 5, 5), [group])
    full, two = cost.of_values(torch.ones(3).double()), cost.of_values(torch.tensor([1.0, 0, 1]).double())
    assert float(full) == 25 * (3 * 12 + 9 * 3 * 8)
    assert float(two) == pytest.approx(25 * (3 * 8 + 9 * 2 * 8))
    assert cost.touched[0].per_channel == 4


def test_a_cost_of_values_has_gradients(case: Case) -> None:
    """The derivative by one gate is what closing that channel alone saves: the cost is linear in each."""
    cost = case[-1]
    values = torch.ones(sum(cost.widths), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost.of_values(values), values)
    closed = values.detach().clone()
    closed[5] = 0
    assert cost.total - float(cost.of_values(closed)) == pytest.approx(float(gradient[5]))
