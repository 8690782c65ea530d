import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.errors import PruningError
from slimsight.compress.surgery import (
    ChannelGraph,
    PrunePlan,
    gated_vs_slim,
    hard_factors,
    masked,
    prove_groups,
    slim_,
    trace_groups,
)

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def proven(network: nn.Module) -> ChannelGraph:
    return prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)


def reasons(graph: ChannelGraph) -> dict[str, str]:
    return {group.name: group.reason for group in graph.frozen}


class Concat(nn.Module):
    """Two branches side by side, read by one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 6, 3, padding=1)
        self.join = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5 * 64, 2)

    def forward(self, images: Tensor) -> Tensor:
        both = torch.cat([self.left(images), self.right(images)], 1).relu()
        logits: Tensor = self.head(self.join(both).flatten(1))
        return logits


def test_concat_has_offsets_and_flatten_repeats() -> None:
    graph = proven(Concat().eval())
    assert [(group.name, group.channels) for group in graph.groups] == [("left", 4), ("right", 6), ("join", 5)]
    (right,) = graph.group("right").consumers
    assert (right.layer, right.positions, right.sources) == ("join", (4, 5, 6, 7, 8, 9), (0, 1, 2, 3, 4, 5))
    (flat,) = graph.group("join").consumers
    assert flat.layer == "head"
    assert flat.sources == tuple(channel for channel in range(5) for _ in range(64))
    assert reasons(graph) == {"head": "its channels are the network's output"}


def test_masking_is_surgery_and_leaves_no_trace() -> None:
    network = Concat().eval()
    graph = proven(network)
    plan = PrunePlan({"left": (1, 3), "right": (0, 2, 5), "join": (0, 4)}, {"left": 4, "right": 6, "join": 5})
    slim = copy.deepcopy(network)
    slim_(slim, plan, IMAGES[:1])
    assert (slim.join.in_channels, slim.join.out_channels, slim.head.in_features) == (5, 2, 128)
    torch.testing.assert_close(slim.join.weight, network.join.weight[[0, 4]][:, [1, 3, 4, 6, 9]])
    assert gated_vs_slim(network, slim, graph.groups, plan, IMAGES) <= 1e-6
    before = network(IMAGES)
    with masked(network, graph.groups, hard_factors(plan)):
        assert not torch.equal(network(IMAGES), before)
    assert torch.equal(network(IMAGES), before)


def test_surgery_restores_modes_and_gradients() -> None:
    network = Concat().train()
    network.join.eval()
    network.left.weight.requires_grad_(False)
    slim_(network, PrunePlan({"left": (0,)}, {"left": 4}), IMAGES[:1])
    assert network.training
    assert not network.join.training
    assert not network.left.weight.requires_grad
    assert network.left.bias.requires_grad
    assert network.left.out_channels == 1


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (PrunePlan({"left": (0, 1, 2, 3)}, {"left": 4}), "keeps every channel: there is nothing to remove"),
        (PrunePlan({"left": (0,)}, {"left": 8}), "group 'left' has 8 channels, the model has 4"),
        (PrunePlan({"nowhere": (0,)}, {"nowhere": 8}), "group 'nowhere' has 8 channels, the model has no such layer"),
    ],
)
def test_a_plan_that_does_not_fit_changes_nothing(plan: PrunePlan, text: str) -> None:
    network = Concat().eval()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(PruningError, match=text):
        slim_(network, plan, IMAGES[:1])
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Normalised(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm
        self.after = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.after(self.norm(self.conv(images)).relu())
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def test_group_normalisation_freezes_its_channels_by_name() -> None:
    graph = proven(Normalised(nn.GroupNorm(2, 8)).eval())
    assert "GroupNorm 'norm'" in reasons(graph)["conv"]
    assert [group.name for group in graph.groups] == ["after"]


def test_batch_normalisation_may_shift_what_is_closed() -> None:
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.bias, 1.0, 2.0)  # a gate before it would leak this
    assert [group.name for group in proven(Normalised(norm).eval()).groups] == ["conv", "after"]


class Shuffled(nn.Module):
    """Channels change places between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.channel_shuffle(self.conv(images), 2)
        logits: Tensor = self.head(self.after(maps).mean((2, 3)))
        return logits


def test_a_channel_shuffle_keeps_the_same_places_of_its_groups() -> None:
    graph = proven(Shuffled().eval())
    assert [(group.name, group.channels) for group in graph.groups] == [("conv", 4), ("after", 4)]
    (slot,) = graph.group("conv").consumers
    assert slot.sources == (0, 0, 1, 1, 2, 2, 3, 3)


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, 8, 1)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.narrow(self.each(self.widen(images).relu()).relu())
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def test_a_depthwise_convolution_follows_its_group() -> None:
    graph = proven(Depthwise().eval())
    group = graph.group("widen")
    assert [slot.layer for slot in group.consumers] == ["narrow"]
    assert "each" in {slot.layer for slot in group.followers}


def test_a_network_of_one_layer_has_nothing_to_prune() -> None:
    graph = proven(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval())
    assert graph.groups == ()
    assert reasons(graph) == {"1": "its channels are the network's output"}
