"""Channels followed by index maps: attention by name, splits, chunks, shuffles and slices with their attributes."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from slimsight.compress.surgery import (
    ChannelGraph,
    PrunePlan,
    Slot,
    gated_vs_slim,
    prove_groups,
    shake_,
    slim_,
    trace_groups,
)
from slimsight.compress.surgery.follow import follow_groups

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def proven(network: nn.Module) -> ChannelGraph:
    network.eval()
    return prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)


def reasons(graph: ChannelGraph) -> dict[str, str]:
    return {group.name: group.reason for group in graph.frozen}


def halved(network: nn.Module, graph: ChannelGraph) -> Any:
    """The network with the upper half of every group, after comparing it with closed channels in float64."""
    kept = {group.name: tuple(range(group.channels // 2, group.channels)) for group in graph.groups}
    plan = PrunePlan(kept, {group.name: group.channels for group in graph.groups})
    shaken = shake_(network.double(), IMAGES.double(), torch.Generator().manual_seed(0)).requires_grad_(False)
    slim: Any = copy.deepcopy(shaken)
    slim_(slim, plan, IMAGES[:1].double())
    assert gated_vs_slim(shaken, slim, graph.groups, plan, IMAGES.double()) < 1e-10
    return slim


class Attends(nn.Module):
    """A block of a vision transformer on convolved patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.norm, self.qkv, self.project = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.widen, self.narrow, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm(tokens)).reshape(len(tokens), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(mixed)
        tokens = tokens + self.narrow(F.gelu(self.widen(self.norm(tokens))))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def test_attention_is_frozen_by_name_and_hidden_layers_shrink() -> None:
    network = Attends()
    graph = proven(network)
    assert [(group.name, group.channels) for group in graph.groups] == [("widen", 32)]
    found = reasons(graph)
    assert set(found) == {"patches", "qkv", "head"}
    assert found["patches"] == "LayerNorm 'norm' normalises several channels together"
    assert found["qkv"].startswith("attention: the model's forward() multiplies activations with each other")
    slim = halved(network, graph)
    assert slim.narrow.weight.shape == (8, 16)
    assert slim.qkv.weight.shape == (24, 8)


class Mixed(nn.Module):
    """Parts of one layer go to filters of different sizes, by a list of widths."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.norm = nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10)
        self.small, self.large = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Conv2d(4, 4, 5, 1, 2, groups=4)
        self.splits = [6, 4]
        self.narrow, self.head = nn.Conv2d(10, 4, 1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        small, large = torch.split(self.norm(self.widen(images)).relu(), self.splits, 1)
        maps = torch.cat([self.small(small), self.large(large)], 1).relu()
        logits: Tensor = self.head(self.narrow(maps).mean((2, 3)))
        return logits


def test_parts_of_a_split_shrink_by_themselves_with_the_list_of_their_widths() -> None:
    network = Mixed()
    graph = proven(network)
    named = [(group.name, group.channels) for group in graph.groups]
    assert named == [("widen[0:6]", 6), ("widen[6:10]", 4), ("narrow", 4)]
    slim = halved(network, graph)
    assert slim.splits == [3, 2]
    assert (slim.small.groups, slim.large.groups, slim.norm.num_features) == (3, 2, 5)
    uneven = PrunePlan({"widen[0:6]": (5,), "widen[6:10]": (0, 1, 2, 3), "narrow": (0,)}, dict(named))
    slim_(network, uneven, IMAGES[:1].double())
    assert network.splits == [1, 4]
    assert network(IMAGES.double()).shape == (2, 3)


class Parts(nn.Module):
    """A layer whose output ``cut`` takes apart, which may read ``half``; one part is convolved, both are joined."""

    def __init__(self, cut: Callable[["Parts", Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)
        self.cut, self.half = cut, 4

    def forward(self, images: Tensor) -> Tensor:
        one, two = self.cut(self, self.stem(images).relu())
        maps = torch.cat([one, self.inner(two)], 1)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


CUTS: dict[str, Callable[[Parts, Tensor], list[Tensor]]] = {
    "chunk": lambda net, x: list(x.chunk(2, 1)),
    "split by an attribute": lambda net, x: list(x.split(net.half, 1)),
    "slices by an attribute": lambda net, x: [x[:, : net.half], x[:, net.half :]],
    "slices by the shape": lambda net, x: [x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]],
    "every other": lambda net, x: [x[:, ::2], x[:, 1::2]],
    "groups of a view": lambda net, x: list(x.view(len(x), 2, x.shape[1] // 2, *x.shape[2:]).unbind(1)),
    "a shuffle": lambda net, x: list(
        x.view(len(x), 2, x.shape[1] // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2).chunk(2, 1)
    ),
}


@pytest.mark.parametrize("name", ["chunk", "split by an attribute", "slices by an attribute", "slices by the shape"])
def test_equal_parts_keep_the_same_places(name: str) -> None:
    network = Parts(CUTS[name])
    graph = proven(network)
    assert {group.name: group.channels for group in graph.groups} == {"stem": 4, "inner": 4}
    (slot,) = (slot for slot in graph.group("stem").producers if slot.layer == "stem")
    assert slot.sources == (0, 1, 2, 3, 0, 1, 2, 3)
    slim = halved(network, graph)
    assert slim.stem.out_channels == 4
    assert slim.half == (2 if "attribute" in name or name == "chunk" else slim.half)


@pytest.mark.parametrize(
    ("name", "sources"), [("every other", (0, 0, 1, 1, 2, 2, 3, 3)), ("groups of a view", (0, 1, 2, 3) * 2)]
)
def test_views_and_steps_are_index_maps(name: str, sources: tuple[int, ...]) -> None:
    network = Parts(CUTS[name])
    graph = proven(network)
    assert graph.group("stem").producers[0].sources == sources
    assert halved(network, graph).stem.out_channels == 4


def test_a_shuffle_by_views_ties_what_it_mixes_and_stays_exact() -> None:
    network = Parts(CUTS["a shuffle"])
    graph = proven(network)
    # out[2i] = x[i] and out[2i+1] = x[4+i]; halves of out keep the same places: x[0] ~ x[2], x[1] ~ x[3]
    assert graph.group("stem").producers[0].sources == (0, 1, 0, 1, 0, 1, 0, 1)
    assert halved(network, graph).stem.out_channels == 4


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (lambda net, x: [x[:, :3], torch.cat([x[:, 3:], x[:, 4:]], 1)[:, :4]], "cuts them at a fixed place ('slice')"),
        (lambda net, x: [x[:, :1] * x[:, 1:5], x[:, 4:]], "cuts them at a fixed place"),
        (lambda net, x: list(x.sort(1).values.chunk(2, 1)), "the operator 'sort' in the model's forward() cannot"),
        (lambda net, x: list(x.softmax(1).chunk(2, 1)), "'softmax' in the model's forward() is taken over several"),
        (lambda net, x: list((x * torch.arange(8.0).to(x)[:, None, None]).chunk(2, 1)), "has an element for each of"),
    ],
)
def test_what_cannot_shrink_says_why_and_nothing_is_refused(
    cut: Callable[[Parts, Tensor], list[Tensor]], reason: str
) -> None:
    network = Parts(cut)
    network.head = nn.LazyLinear(3)
    network.eval()(IMAGES)
    graph = proven(network)
    assert reason in reasons(graph)["stem"]
    assert not [group for group in graph.frozen if "removing channels" in group.reason]
    assert [group.name for group in graph.groups] == ["inner"]


class Reads(nn.Module):
    """A layer whose output ``body`` rearranges before the next layer reads it."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.next, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.LazyConv2d(6, 1), nn.Linear(6, 3)
        self.body = body
        self(IMAGES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.next(self.body(self.stem(images).relu())).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("body", "sources"),
    [
        (lambda x: F.glu(x, 1), (0, 1, 2, 3)),
        (lambda x: F.pixel_shuffle(x, 2), (0, 1)),
        (lambda x: F.pixel_unshuffle(x, 2), tuple(channel for channel in range(8) for _ in range(4))),
        (lambda x: x.repeat(1, 2, 1, 1), (*range(8), *range(8))),
        (lambda x: x.flip(1), tuple(reversed(range(8)))),
    ],
)
def test_rearranged_channels_are_read_where_they_are(
    body: Callable[[Tensor], Tensor], sources: tuple[int, ...]
) -> None:
    network = Reads(body)
    graph = proven(network)
    (slot,) = graph.group("stem").consumers
    assert slot.sources == sources
    halved(network, graph)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: x.roll(1, 1), "rolls them"),
        (lambda x: x[:, [1, 0, 3, 2]] + x.chunk(2, 1)[0], "takes them by their numbers ('index')"),
        (lambda x: torch.cat([x.max(1, keepdim=True).values, x.split(4, 1)[0]], 1), "'max' in the model's forward()"),
        (lambda x: torch.fft.rfft2(x).abs().chunk(2, 1)[0], "the operator '_fft_r2c' in the model's forward() cannot"),
    ],
)
def test_channels_whose_numbers_count_stay(body: Callable[[Tensor], Tensor], reason: str) -> None:
    graph = proven(Reads(body))
    assert reason in reasons(graph)["stem"]
    assert [group.name for group in graph.groups] == ["next"]


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.next, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        wide = torch.zeros(len(maps), 8, *maps.shape[2:], dtype=maps.dtype)
        wide[:, 1:7] = maps
        left, right = self.next(wide).chunk(2, 1)
        logits: Tensor = self.head(torch.cat([left, right], 1).mean((2, 3)))
        return logits


def test_what_is_written_into_a_part_of_a_tensor_stays() -> None:
    graph = proven(Writes())
    assert "writes them into a part of a tensor" in reasons(graph)["stem"]
    assert [(group.name, group.channels) for group in graph.groups] == [("next", 3)]


class Norms(nn.Module):
    """Frozen batch normalisation, two filters for each channel, a squeeze and excitation, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), FrozenBatchNorm2d(6)
        self.each, self.squeeze, self.excite = (
            nn.Conv2d(6, 12, 3, 1, 1, groups=6),
            nn.Conv2d(12, 4, 1),
            nn.Conv2d(4, 12, 1),
        )
        self.maps, self.head = nn.Conv2d(12, 2, 1), nn.Linear(12, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.each(self.norm(self.stem(images)).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return {"maps": self.maps(x), "logits": self.head(x.mean((2, 3)))}


def test_frozen_norms_and_several_filters_a_channel_follow() -> None:
    network = Norms()
    graph = proven(network)
    assert [(group.name, group.channels) for group in graph.groups] == [("stem", 6), ("squeeze", 4)]
    assert reasons(graph)["maps"] == "its channels are the network's output 'out.maps'"
    slim = halved(network, graph)
    assert (slim.norm.weight.shape, slim.each.weight.shape, slim.each.groups) == ((3,), (6, 1, 3, 3), 3)
    assert (slim.excite.out_channels, slim.head.in_features) == (6, 6)


class Plain(nn.Module):
    """What Torch-Pruning follows: a shortcut, a concatenation, a depthwise layer, groups, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.wide = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.each, self.side = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1)
        self.joined, self.last = nn.Conv2d(12, 8, 3, 1, 1), nn.Conv2d(8, 6, 1, groups=2)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        x = x + self.each(self.wide(x).relu())
        x = self.joined(torch.cat([x, self.side(x)], 1))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(self.last(x), 2).flatten(1))
        return logits


def test_index_maps_find_the_groups_of_torch_pruning() -> None:
    network = Plain().eval()
    theirs, ours = trace_groups(network, IMAGES[:1]), follow_groups(network, IMAGES[:1])
    assert (theirs.by_index_maps, ours.by_index_maps) == (False, True)
    assert [(g.name, g.channels, g.residual) for g in ours.groups] == [
        (g.name, g.channels, g.residual) for g in theirs.groups
    ]
    assert {g.name for g in ours.frozen} == {g.name for g in theirs.frozen} == {"head"}
    for own, other in zip(ours.groups, theirs.groups, strict=True):
        for side in ("producers", "consumers", "followers"):
            assert places(getattr(own, side)) == places(getattr(other, side)), (own.name, side)


def places(slots: Sequence[Slot]) -> set[tuple[str, int, int]]:
    return {(slot.layer, *pair) for slot in slots for pair in zip(slot.positions, slot.sources, strict=True)}
