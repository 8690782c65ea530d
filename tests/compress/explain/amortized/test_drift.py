"""Drift on hand-made parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimsight.compress.data import Batches
from slimsight.compress.explain import (
    Drift,
    ExplainedClassifier,
    RbfHead,
    RealXHead,
    Selector,
    drift_chance,
    explanations,
    head_drift,
    rbf_drift,
)


def naive_iou(first: list[float], second: list[float], side: int) -> float:
    """Sum of minima / sum of maxima of two maps, pixel by pixel."""
    low = high = 0.0
    for i in range(side):
        for j in range(side):
            a, b = (math.exp(-((i - z) ** 2 + (j - t) ** 2) / (2 * s * s)) for z, t, s in (first, second))
            low, high = low + min(a, b), high + max(a, b)
    return low / high


def test_a_shift_by_three_and_four_is_five_pixels() -> None:
    original = torch.tensor([[10.0, 12.0, 4.0], [16.0, 16.0, 6.0]])
    drift = rbf_drift(original, original + torch.tensor([3.0, -4.0, 0.0]), 32)
    assert drift.center_drift_px == pytest.approx(5)
    assert drift.sigma_drift_px == 0
    expected = [naive_iou([10, 12, 4], [13, 8, 4], 32), naive_iou([16, 16, 6], [19, 12, 6], 32)]
    assert drift.iou == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert drift.images == 2


def test_drifts_are_means_of_distances_not_distances_of_means() -> None:
    original = torch.tensor([[8.0, 8.0, 3.0], [8.0, 8.0, 3.0]])
    drift = rbf_drift(original, torch.tensor([[10.0, 8.0, 4.0], [6.0, 8.0, 2.0]]), 16)
    assert drift.center_drift_px == pytest.approx(2)
    assert drift.sigma_drift_px == pytest.approx(1)
    expected = [naive_iou([8, 8, 3], [10, 8, 4], 16), naive_iou([8, 8, 3], [6, 8, 2], 16)]
    assert drift.iou == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_no_drift_is_full_overlap() -> None:
    params = torch.rand(700, 3) * 10 + 2  # more than one chunk
    assert rbf_drift(params, params.clone(), 16) == Drift(0.0, 0.0, 1.0, 700)


def test_every_image_counts_the_same_in_the_overlap() -> None:
    same, far = torch.tensor([[4.0, 4.0, 2.0]]), torch.tensor([[12.0, 12.0, 0.5]])
    original = same.repeat(520, 1)  # 512 in the first chunk, 8 in the second
    slim = torch.cat([same.repeat(512, 1), far.repeat(8, 1)])
    expected = (512 + 8 * naive_iou([4, 4, 2], [12, 12, 0.5], 16)) / 520
    assert rbf_drift(original, slim, 16).iou == pytest.approx(expected, rel=1e-5)


def test_maps_that_do_not_touch_have_no_overlap() -> None:
    drift = rbf_drift(torch.tensor([[2.0, 2.0, 0.1]]), torch.tensor([[28.0, 28.0, 0.1]]), 32)
    assert drift.iou == pytest.approx(0, abs=1e-12)
    assert math.isfinite(drift.center_drift_px)


def test_json_form() -> None:
    assert Drift(1.5, 0.5, 0.25, 7).to_dict() == {
        "center_drift_px": 1.5,
        "sigma_drift_px": 0.5,
        "iou": 0.25,
        "images": 7,
    }


def test_explanations_are_in_the_order_of_the_images(
    network: ExplainedClassifier, images: Tensor, val: Batches
) -> None:
    found = explanations(network, val)
    assert found.shape == (20, 3)
    labels = torch.from_numpy(val.images.labels)
    with torch.no_grad():
        for n in (0, 3, 5):
            _, params = network(images[n : n + 1], labels[n : n + 1])
            torch.testing.assert_close(found[n : n + 1], params, rtol=1e-4, atol=1e-4)


def test_maps_drift_by_their_moments_and_their_own_overlap(network: ExplainedClassifier) -> None:
    head = Selector(network.selector.scales, 3, 16, RealXHead).head
    maps = torch.zeros(2, 16, 16)
    maps[0, 4, 4], maps[1, 8, 8] = 0.8, 0.5
    other = torch.zeros(2, 16, 16)
    other[0, 7, 8], other[1, 8, 8] = 0.8, 0.25  # five pixels away; the same place, half as sure
    drift = head_drift(head, maps, other)
    assert (drift.center_drift_px, drift.sigma_drift_px, drift.images) == (pytest.approx(2.5), pytest.approx(0), 2)
    assert drift.iou == pytest.approx(0.25)


def test_the_drift_of_radial_masks_is_that_of_their_parameters(network: ExplainedClassifier) -> None:
    torch.manual_seed(0)
    before, after = (torch.rand(600, 3) * 10 + 2 for _ in range(2))
    assert head_drift(network.selector.head, before, after) == rbf_drift(before, after, 16)


def test_the_chance_level_is_that_of_the_mean_explanation_and_of_another_image() -> None:
    head = RbfHead(4, 4, 16)
    original = torch.tensor([[4.0, 8.0, 3.0], [6.0, 8.0, 3.0], [10.0, 8.0, 3.0], [12.0, 8.0, 3.0]])
    labels = torch.tensor([0, 1, 0, 1])
    found = drift_chance(head, original, original, labels)
    # The mean is row 8: 4, 2, 2 and 4 rows away.
    assert found.constant.center_drift_px == pytest.approx(3)
    expected = [naive_iou([row, 8, 3], [8, 8, 3], 16) for row in (4, 6, 10, 12)]
    assert found.constant.iou == pytest.approx(sum(expected) / 4, rel=1e-5)
    # By class the order is 4, 10, 6, 12: half of it on, 4 meets 6, 10 meets 12, 6 meets 4 and 12 meets 10.
    assert found.other.center_drift_px == pytest.approx(2)
    assert (found.share.mean, found.r2) == (pytest.approx(0, abs=1e-6), 1.0)


def test_the_mean_explanation_has_gone_all_of_the_way() -> None:
    head = RbfHead(4, 4, 16)
    original = torch.tensor([[4.0, 8.0, 3.0], [12.0, 8.0, 3.0], [7.0, 5.0, 2.0], [9.0, 11.0, 4.0]])
    mean = original.mean(0).expand(4, -1)
    found = drift_chance(head, original, mean, torch.tensor([0, 0, 1, 1]))
    assert found.share.mean == pytest.approx(1)
    assert found.share.images == 4
    assert found.r2 == pytest.approx(0, abs=1e-6)
    # Mirrored: as far from the mean as before, on the wrong side.
    assert drift_chance(head, original, 2 * mean - original, torch.tensor([0, 0, 1, 1])).r2 == pytest.approx(-3)


def test_explanations_that_do_not_vary_have_no_share() -> None:
    same = torch.tensor([[8.0, 8.0, 3.0]]).repeat(4, 1)
    found = drift_chance(RbfHead(4, 4, 16), same, same, torch.tensor([0, 0, 1, 1]))
    assert (found.share.mean, found.share.images, found.r2) == (None, 0, None)
