from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimsight.compress.dynamic import DynamicClassifier, find_routes
from slimsight.compress.errors import PruningError
from slimsight.compress.surgery import trace_groups

Build = Callable[..., DynamicClassifier]


def test_only_inner_channels_are_routed(network: nn.Module) -> None:
    example = torch.rand(1, 3, 8, 8)
    routes = find_routes(network, trace_groups(network, example), example)
    assert [(route.layer, route.inputs, route.group.channels) for route in routes] == [
        ("one.conv1", 8, 12),
        ("two.conv1", 8, 16),
    ]


def test_a_head_consumes_what_its_layer_reads() -> None:
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, 2)
    ).eval()
    example = torch.rand(1, 3, 8, 8)
    first, second = find_routes(chain, trace_groups(chain, example), example)
    assert [slot.layer for slot in first.group.consumers] == ["4", "routers.1.head"]
    assert [slot.layer for slot in second.group.consumers] == ["6"]


def test_a_network_without_inner_channels_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    example = torch.rand(1, 3, 8, 8)
    with pytest.raises(PruningError, match="no layer of this model can pick its channels per image"):
        find_routes(network, trace_groups(network, example), example)


def test_logits_are_those_of_the_network_with_the_chosen_channels(network: nn.Module, to_dynamic: Build) -> None:
    """Image by image: zero the filters' outputs by hand where the mask is zero, scale them where it is not."""
    model = to_dynamic(network, 8)
    images = torch.rand(20, 3, 8, 8)
    with torch.no_grad():
        routing = model.routed(images)
    assert len(torch.stack([s.argmax(1) for s in routing.scores], 1).unique(dim=0)) > 2
    for n in range(20):
        gates = [routing.gates[0][n], routing.gates[1][n]]
        handles = [
            block.conv2.register_forward_pre_hook(lambda _, args, gate=gate: (args[0] * gate[:, None, None],))
            for block, gate in zip((network.one, network.two), gates, strict=True)
        ]
        with torch.no_grad():
            expected = network(images[n : n + 1])
        for handle in handles:
            handle.remove()
        assert torch.allclose(routing.logits[n : n + 1], expected, atol=1e-5)


def test_dense_images_compute_every_channel(network: nn.Module, to_dynamic: Build) -> None:
    model = to_dynamic(network, 8)
    images = torch.rand(6, 3, 8, 8)
    every, none = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(model.routed(images, dense=[every, every]).logits, network(images), atol=1e-6)
        assert torch.equal(model.routed(images, dense=[none, none]).logits, model(images))
        assert torch.allclose(model.routed(images, closing=False).logits, network(images), atol=1e-6)
