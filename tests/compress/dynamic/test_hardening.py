from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimsight.compress.data import Batches
from slimsight.compress.dynamic import DynamicClassifier, check_reachable, harden_, measure_usage, routed_cost
from slimsight.compress.errors import PruningError

Build = Callable[..., DynamicClassifier]


def opened(network: nn.Module, to_dynamic: Build) -> DynamicClassifier:
    """All channels open, values drawn."""
    model = to_dynamic(network, 8, masks=3)
    for router in model.router_list:
        router.keep.fill_(True)
        with torch.no_grad():
            router.masks.uniform_(0.1, 1.5)
    return model


@pytest.mark.parametrize("align", [1, 4])
def test_the_budget_is_met_from_below_with_the_largest_values(
    network: nn.Module, to_dynamic: Build, val: Batches, align: int
) -> None:
    model = opened(network, to_dynamic)
    before = [router.masks.detach().clone() for router in model.router_list]
    cost = routed_cost(model, torch.rand(1, 3, 8, 8))
    budget = 0.6 * cost.total
    found = harden_(model, cost, val, budget=budget, align=align)
    assert found.macs_mean <= budget
    assert found.macs_mean > 0.9 * budget
    assert found.macs_mean == measure_usage(model, cost, val).macs_mean
    for router, values in zip(model.router_list, before, strict=True):
        kept = router.masks > 0
        assert torch.equal(kept, router.keep)
        assert all(count % align == 0 and count > 0 for count in kept.sum(1).tolist())
        for row, value in zip(kept, values, strict=True):
            assert row.all() or value[row].min() >= value[~row].max()


def test_within_the_budget_only_widths_change(network: nn.Module, to_dynamic: Build, val: Batches) -> None:
    model = opened(network, to_dynamic)
    with torch.no_grad():
        model.router_list[0].masks[1, 5] = 0
    cost = routed_cost(model, torch.rand(1, 3, 8, 8))
    harden_(model, cost, val, budget=cost.total, align=1)
    assert model.router_list[0].keep.sum().item() == 3 * 12 - 1
    assert model.router_list[1].keep.all()


def test_masks_made_of_the_same_values_stay_the_same(network: nn.Module, to_dynamic: Build, val: Batches) -> None:
    model = opened(network, to_dynamic)
    with torch.no_grad():
        model.router_list[1].masks[2] = model.router_list[1].masks[0]
    cost = routed_cost(model, torch.rand(1, 3, 8, 8))
    harden_(model, cost, val, budget=0.5 * cost.total, align=1)
    assert torch.equal(model.router_list[1].masks[2], model.router_list[1].masks[0])
    assert not torch.equal(model.router_list[1].masks[1], model.router_list[1].masks[0])


def test_a_budget_out_of_reach_is_refused(network: nn.Module, to_dynamic: Build, val: Batches) -> None:
    model = opened(network, to_dynamic)
    cost = routed_cost(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(PruningError, match=r"dynamic budget of 0\.002 M MACs cannot be reached.*raise dynamic\.macs$"):
        check_reachable(cost, 2000)
    check_reachable(cost, 10_000)
    with pytest.raises(PruningError, match=r"with 4 open in every route.*or lower dynamic\.align"):
        harden_(model, cost, val, budget=10_000, align=4)
