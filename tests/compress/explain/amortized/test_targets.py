"""C_x and the distance that steers."""

from __future__ import annotations

import pytest
import torch

from slimsight.compress.data import Batches
from slimsight.compress.explain import ExplainedClassifier, RealXHead, Selector, explanations, find_targets, to_targets
from slimsight.compress.explain.amortized.heads import RBF_VARIANCE, total_variance


def test_the_distance_of_radial_masks_is_isps_in_pixels_of_32(network: ExplainedClassifier) -> None:
    numbers = torch.tensor([[4.0, 4.0, 2.0], [8.0, 8.0, 3.0], [1.0, 2.0, 3.0]])
    targets = to_targets(network.selector.head, numbers)
    found = torch.tensor([[1.0, 2.0, 3.0], [9.0, 6.0, 3.0]])  # of images 2 and 1
    # At 16 pixels a side, a pixel is two of ISP's: (0 + (1 + 4 + 0)) / 2 * 2^2
    assert float(targets.distance(found, torch.tensor([2, 1]))) == pytest.approx(10)


def test_the_distance_of_maps_is_in_their_own_variance(network: ExplainedClassifier) -> None:
    torch.manual_seed(0)
    head = Selector(network.selector.scales, 3, 16, RealXHead).head
    numbers = torch.rand(50, 16, 16)
    targets = to_targets(head, numbers)
    mean = numbers.mean(0).expand(50, -1, -1)
    # The mean explanation of all images is one total variance from each.
    assert float(targets.distance(mean, torch.arange(50))) == pytest.approx(RBF_VARIANCE, rel=1e-4)
    assert targets.unit == pytest.approx(RBF_VARIANCE / total_variance(numbers))


def test_targets_are_kept_in_half_precision_and_steer_in_single(network: ExplainedClassifier, val: Batches) -> None:
    pixelwise = ExplainedClassifier(network.classifier, Selector(network.selector.scales, 3, 16, RealXHead))
    torch.nn.init.normal_(pixelwise.selector.head.weight)
    targets = find_targets(pixelwise, val)
    assert targets.numbers.dtype == torch.float16
    full = explanations(pixelwise, val).clone().requires_grad_()
    torch.testing.assert_close(targets.numbers.float(), full.detach(), rtol=0, atol=2.5e-4)
    distance = targets.distance(full, torch.arange(20))
    assert distance.dtype == torch.float32
    assert float(distance.detach()) < 1e-4
    assert find_targets(network, val).numbers.dtype == torch.float32
