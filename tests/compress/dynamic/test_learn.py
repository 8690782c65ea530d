from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimsight.compress.config import DynamicConfig
from slimsight.compress.data import Batches
from slimsight.compress.dynamic import DynamicClassifier, learn_routing, measure_usage, routed_cost
from slimsight.compress.dynamic.learn import Alternating, mean_gate, open_share, sparsity
from slimsight.compress.training import Learning, make_fabric

Build = Callable[..., DynamicClassifier]


def test_the_sparsity_term_is_its_formula() -> None:
    """Gates of two routes (2 images): |g| sums to 1.2 + 3.0 over 2 x (2 + 3) values."""
    gates = [torch.tensor([[0.5, 0.1], [0.6, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])]
    assert mean_gate(gates).item() == pytest.approx(0.42)
    assert sparsity(gates, 0.7, 0.5).item() == pytest.approx(0.5 * 0.28**2)


def test_optimisers_take_turns_and_leave_each_others_parameters_alone() -> None:
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = Alternating(torch.optim.SGD([one], lr=0.1), torch.optim.SGD([two], lr=1.0))
    for turn in range(4):
        before = one.detach().clone(), two.detach().clone()
        optimizer.zero_grad()
        (one + two).sum().backward()
        optimizer.step()
        moved = not torch.equal(one, before[0]), not torch.equal(two, before[1])
        assert moved == ((True, False) if turn % 2 == 0 else (False, True))
    assert torch.allclose(one, torch.full((3,), 0.8))
    assert torch.allclose(two, torch.full((3,), -1.0))


def test_a_schedule_reaches_both_optimisers() -> None:
    one, two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    inner = torch.optim.SGD([one], lr=0.1), torch.optim.SGD([two], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(Alternating(*inner), lambda step: 0.5**step)
    scheduler.optimizer.step()
    scheduler.step()
    assert [optimizer.param_groups[0]["lr"] for optimizer in inner] == [0.05, 0.5]


def test_the_share_costs_the_budget(network: nn.Module, to_dynamic: Build) -> None:
    cost = routed_cost(to_dynamic(network, 8), torch.rand(1, 3, 8, 8))
    share = open_share(cost, 0.5 * cost.total)
    assert float(cost.of_values(share * torch.ones(28, dtype=torch.float64))) == pytest.approx(0.5 * cost.total)


def test_learning_holds_the_budget_and_tells_images_apart(
    network: nn.Module, to_dynamic: Build, train: Batches, val: Batches
) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()
    for epoch in range(8):
        for batch in train.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
    example = next(iter(val)).images[:1]
    model = DynamicClassifier(network.eval(), to_dynamic(network, 8).routes, 3)
    cost = routed_cost(model, example)
    config = DynamicConfig(masks=3, macs=0.6, epochs=3, finetune_epochs=4, batch_size=64)
    found = learn_routing(
        model, cost, train, val, Learning(make_fabric("32-true", "cpu")), config=config, budget=0.6 * cost.total
    )
    assert not model.training
    assert found.validation.macs_mean <= 0.6 * cost.total
    assert found.validation.macs_mean == measure_usage(model, cost, val).macs_mean
    assert found.validation.accuracy > 0.7  # of ten classes
    assert all(len(column.unique()) > 1 for column in found.validation.choices.T)
    assert accuracy_with_dense(model, val, 1.0) > found.validation.accuracy - 0.05  # .1 to .4 less if never trained


@torch.inference_mode()
def accuracy_with_dense(model: DynamicClassifier, batches: Batches, share: float) -> float:
    """Accuracy where a share of the choices runs dense, as after a verification."""
    torch.manual_seed(1)
    right = count = 0
    for batch in batches.epoch(0):
        dense = [torch.rand(len(batch.labels)) < share for _ in model.routes]
        right += int((model.routed(batch.images, dense=dense).logits.argmax(1) == batch.labels).sum())
        count += len(batch.labels)
    return right / count
