"""Which channels may go: residual streams are found by what is added, and stay whole where that is asked for."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from slimsight.compress.config import BudgetConfig
from slimsight.compress.gates import CostModel, proxy_limits, smallest_macs
from slimsight.compress.gates.scope import ROOM, WHOLE, choose_scope, inner_groups
from slimsight.compress.surgery import ChannelGraph, trace_groups

EXAMPLE = torch.randn(1, 3, 32, 32)


def residual(network: nn.Module) -> list[str]:
    return [group.name for group in trace_groups(network.eval(), EXAMPLE).groups if group.residual]


class Excited(nn.Module):
    """A squeeze-and-excitation block whose sigmoid is relu6(x + 3) / 6, and a difference of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.squeeze, self.excite = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.left, self.right, self.last = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        gate = nn.functional.relu6(self.excite(self.squeeze(x.mean((2, 3), keepdim=True))) + 3) / 6
        x = x * gate
        return self.last((self.left(x) - self.right(x)).mean((2, 3)))


def test_residual_streams_are_where_outputs_of_layers_are_added() -> None:
    assert residual(torchvision.models.resnet18()) == ["conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]
    assert residual(torchvision.models.vgg11()) == []
    assert residual(torchvision.models.densenet121()) == []
    streams = ["features.2.block.2.0", "features.4.block.3.0", "features.7.block.3.0", "features.9.block.3.0"]
    assert residual(torchvision.models.mobilenet_v3_small()) == streams
    assert residual(Excited()) == ["left"]  # a gate is multiplied, and a number is added: neither is a stream


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, ChannelGraph]:
    network = torchvision.models.resnet18(num_classes=4).eval()
    return network, trace_groups(network, EXAMPLE)


def chosen(resnet: tuple[nn.Module, ChannelGraph], scope: str, budget: BudgetConfig) -> ChannelGraph:
    network, graph = resnet
    return choose_scope(
        graph,
        scope,
        lambda graph: CostModel.of(network, EXAMPLE, graph.groups),
        lambda cost: proxy_limits(budget, cost),
    )


def test_inner_freezes_the_streams_and_says_why(resnet: tuple[nn.Module, ChannelGraph]) -> None:
    graph = chosen(resnet, "inner", BudgetConfig(macs=0.01))
    assert [group.name for group in graph.groups] == [f"layer{i}.{j}.conv1" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert {group.reason for group in graph.frozen if group.name == "conv1"} == {WHOLE}
    assert chosen(resnet, "all", BudgetConfig(macs=0.5)) is resnet[1]


@pytest.mark.parametrize("limit", ["macs", "latency", "params"])
def test_auto_takes_the_streams_where_the_budget_needs_them(resnet: tuple[nn.Module, ChannelGraph], limit: str) -> None:
    network, graph = resnet
    cost = CostModel.of(network, EXAMPLE, inner_groups(graph).groups)
    assert 0.05 < smallest_macs(cost) / cost.total < 0.2
    assert chosen(resnet, "auto", BudgetConfig(**{limit: 0.5})) == inner_groups(graph)
    assert chosen(resnet, "auto", BudgetConfig(**{limit: 0.005})) is graph
    between = smallest_macs(cost) / cost.total / ROOM
    assert chosen(resnet, "auto", BudgetConfig(macs=between * 1.01)) == inner_groups(graph)
    assert chosen(resnet, "auto", BudgetConfig(macs=between * 0.99)) is graph


def test_auto_needs_inner_groups() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.one(x) + self.two(x)).mean((2, 3)))

    network = Stream().eval()
    pair = (network, trace_groups(network, EXAMPLE))
    assert [group.name for group in chosen(pair, "auto", BudgetConfig(macs=0.5)).groups] == ["one"]
    assert chosen(pair, "inner", BudgetConfig(macs=0.5)).groups == ()
