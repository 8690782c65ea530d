"""Proofs on small images: where they say what they say on the given ones, and where they would not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimsight.compress.errors import PruningError
from slimsight.compress.surgery import prove_groups, trace_groups
from slimsight.compress.surgery.side import record_operators, same_on_channels, small_images

IMAGES = torch.rand(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """Convolutions with a stride of 8 in all, then what a test puts behind them."""

    def __init__(self, neck: str = "mean", side: int = 192) -> None:
        super().__init__()
        self.neck = neck
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.c = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4 * (side // 8) ** 2 if neck == "flatten" else 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.b(self.norm(self.a(images)).relu()).relu()
        if self.neck == "branch" and images.shape[-1] > 100:
            maps = maps.flip(1)
        if self.neck == "roll":
            maps = maps.roll(0 if images.shape[-1] <= 100 else 1, 1)
        if self.neck == "cut":
            first = 0 if images.shape[-1] <= 100 else 4
            maps = torch.cat([maps[:, first : first + 4], maps[:, :4]], 1)
        maps = self.c(maps).relu()
        if self.neck == "softmax":
            maps = functional.max_pool2d(maps, 8)  # 24 pixels become 3, 6 would become none
            maps = maps * maps.flatten(2).softmax(2).view(maps.shape)
        logits: Tensor = self.head(maps.flatten(1) if self.neck == "flatten" else maps.mean((2, 3)))
        return logits


def side_of(network: nn.Module, images: Tensor = IMAGES) -> tuple[int, int]:
    graph = trace_groups(network, images[:1])
    height, width = small_images(network, graph, images).shape[-2:]
    return height, width


def test_a_network_of_convolutions_is_proven_on_the_smallest_side() -> None:
    assert side_of(Body().eval()) == (48, 48)
    assert side_of(Body().eval(), IMAGES[..., :40]) == (48, 40)
    assert side_of(Body().eval(), IMAGES[..., :60, :60]) == (60, 60)  # not worth it


@pytest.mark.parametrize(
    ("neck", "side"),
    [
        ("flatten", 192),  # the linear layer has as many inputs as there are pixels
        ("branch", 128),  # channels are reversed above 100 pixels only
        ("roll", 128),
        ("cut", 128),
        ("softmax", 128),  # over a single pixel it would be one, whatever the channels before it are
    ],
)
def test_what_depends_on_the_side_is_proven_where_it_is_the_same(neck: str, side: int) -> None:
    assert side_of(Body(neck).eval()) == (side, side)


def test_operators_of_two_sides_are_compared_one_by_one() -> None:
    network = Body().eval()
    large, small = record_operators(network, IMAGES), record_operators(network, IMAGES[..., :64, :64])
    assert [operator.name for operator in large].count("convolution") == 3
    assert same_on_channels(large, small)
    assert not same_on_channels(large, small[:-1])
    assert not same_on_channels(large, record_operators(network, IMAGES[..., :8, :8]))  # maps of one pixel


def test_what_large_images_alone_go_through_is_proven_on_them() -> None:
    """Channels that are reversed above 100 pixels."""
    network = Body("branch").eval()
    found = prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)
    assert [group.name for group in found.groups] == ["a", "b", "c"]
    (b,) = (group for group in found.groups if group.name == "b")
    (reader,) = b.consumers
    assert (reader.layer, dict(zip(reader.positions, reader.sources, strict=True))[0]) == ("c", 7)


def test_the_proof_is_made_on_the_small_images_and_leaves_the_network() -> None:
    network = Body().eval()
    before, seen = copy.deepcopy(network.state_dict()), []
    graph = trace_groups(network, IMAGES[:1])
    network.register_forward_pre_hook(lambda _, args: seen.append((args[0].dtype, args[0].shape[-1])))
    threads = torch.get_num_threads()
    assert prove_groups(network, graph, IMAGES) == graph
    assert {side for dtype, side in seen if dtype == torch.float64} == {48}
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_refuses_other_sides_keeps_its_own() -> None:
    class Strict(Body):
        def forward(self, images: Tensor) -> Tensor:
            if images.shape[-1] != 192:
                raise PruningError("only 192")
            return super().forward(images)

    network = Strict().eval()
    assert side_of(network) == (192, 192)
    assert len(prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES).groups) == 3
