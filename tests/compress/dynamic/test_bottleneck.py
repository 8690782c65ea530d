import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from slimsight.compress.data import Batches
from slimsight.compress.dynamic import DynamicClassifier, measure_usage, routed_cost, verify_routes
from slimsight.compress.dynamic.bottleneck import (
    FeatureMoments,
    bits_of,
    blur,
    capacity,
    coverage,
    read_moments,
    smallest_set,
)


def test_capacity_is_the_divergence_of_the_noisy_value_in_bits() -> None:
    torch.manual_seed(0)
    values, passed = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.rand(4, 2, 3, 3, dtype=torch.float64) * 0.99
    moments = FeatureMoments(torch.randn(2, 3, 3).double(), torch.rand(2, 3, 3).double() + 0.1)
    deviation = moments.variance.sqrt()
    noisy = Normal(passed * values + (1 - passed) * moments.mean, (1 - passed) * deviation)
    expected = kl_divergence(noisy, Normal(moments.mean, deviation)) / math.log(2)
    assert torch.allclose(capacity(values, passed, moments), expected)


def test_nothing_passed_is_no_information() -> None:
    moments = FeatureMoments(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    nothing = torch.zeros(1, 1, 1, 1)
    assert capacity(torch.full((1, 1, 1, 1), 7.0), nothing, moments).item() == 0
    half = capacity(torch.full((1, 1, 1, 1), 2.0), nothing + 0.5, moments).item()
    assert half == pytest.approx(0.5 * (0.25 + 1 - 1 - math.log(0.25)) / math.log(2))


def test_the_smallest_set_holds_nine_tenths_and_no_channel_less_does() -> None:
    bits = torch.tensor([[5.0, 1.0, 3.0, 1.0], [1.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    assert smallest_set(bits).tolist() == [
        [True, True, True, False],
        [False, False, False, True],  # 9 of 10 is .9 already
        [False] * 4,
    ]
    random = torch.rand(50, 20)
    chosen = smallest_set(random)
    held = (random * chosen).sum(1)
    least = torch.where(chosen, random, torch.inf).min(1).values
    assert (held >= 0.9 * random.sum(1) - 1e-5).all()
    assert (held - least < 0.9 * random.sum(1)).all()


def test_coverage_counts_what_is_needed() -> None:
    needed = torch.tensor([[True, True, False, False], [True, True, True, False], [False] * 4])
    opened = torch.tensor([[True, False, True, True], [True, True, True, True], [False] * 4])
    assert coverage(opened, needed).tolist() == [0.5, 1.0, 1.0]


def test_blur_keeps_a_constant_and_spreads_a_point() -> None:
    assert torch.allclose(blur(torch.full((2, 3, 5, 4), 0.3)), torch.full((2, 3, 5, 4), 0.3))
    assert torch.equal(blur(torch.full((1, 1, 1, 1), 0.3)), torch.full((1, 1, 1, 1), 0.3))
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    weights = torch.exp(-(torch.arange(-2.0, 3) ** 2) / 2)
    weights /= weights.sum()
    assert torch.allclose(blur(point)[0, 0, 2:7, 2:7], weights[:, None] * weights, atol=1e-6)


def test_moments_are_those_of_the_layer(network: nn.Module, val: Batches) -> None:
    (moments,) = read_moments(network, ["one.conv1"], val).values()
    values: list[torch.Tensor] = []
    handle = network.one.conv1.register_forward_hook(lambda *args: values.append(args[2].detach()))
    with torch.no_grad():
        for batch in val:
            network(batch.images)
    handle.remove()
    every = torch.cat(values)
    assert torch.allclose(moments.mean, every.mean(0), atol=1e-5)
    assert torch.allclose(moments.variance, every.var(0, unbiased=False), rtol=1e-4, atol=1e-7)


def test_bits_lie_in_the_channel_that_decides() -> None:
    """The class is the sign of channel 0; channel 1 is noise that nobody reads."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 1, bias=False)
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(2)[:, :, None, None])
        linear.weight.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))
    network = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    images = torch.randn(40, 2, 4, 4) * 0.1
    images[:, 0] += torch.tensor([1.0, -1.0]).repeat(20)[:, None, None]
    labels = (images[:, 0].mean((1, 2)) < 0).long()
    moments = FeatureMoments(torch.zeros(2, 4, 4), torch.stack([torch.ones(4, 4), torch.full((4, 4), 0.01)]))
    bits = bits_of(network, "0", moments, images, labels).sum((2, 3))
    assert (bits[:, 0] > bits[:, 1]).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_evidence_of_open_and_of_closed_routes(
    network: nn.Module, to_dynamic: Callable[..., DynamicClassifier], val: Batches, digits: object
) -> None:
    torch.manual_seed(0)
    model = to_dynamic(network, 8)
    few = Batches(val.images.subset(range(20)), 10)
    cost = routed_cost(model, torch.rand(1, 3, 8, 8))
    with torch.no_grad():  # the first route opens everything, the second a single channel
        first, second = model.router_list
        first.keep.fill_(True)
        first.masks.fill_(1)
        second.keep.fill_(False)
        second.keep[:, 0] = True
        model.project_()
        second.masks.copy_(second.keep.float())
    found = verify_routes(model, network, cost, few, val)
    assert found.images == 20
    one, two = found.routes
    assert (one.covered, one.accepted, one.open_channels) == (1.0, 1.0, 12.0)
    assert two.open_channels == 1.0
    assert two.accepted < 0.5
    assert found.accepted == (one.accepted + two.accepted) / 2
    assert found.macs == measure_usage(model, cost, few).macs_mean
    closed = 15 * 2 * 8 * 9 * 16  # MACs that one image saves in the second route
    assert found.macs_with_dense == pytest.approx(found.macs + (1 - two.accepted) * closed)
    assert one.bits_per_channel == pytest.approx(16 * one.bits_per_pixel)
    assert found.to_dict()["accepted"] == found.accepted
