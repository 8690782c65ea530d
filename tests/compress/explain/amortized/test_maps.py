"""Moments of maps, and maps in other places."""

from __future__ import annotations

import pytest
import torch

from slimsight.compress.explain.amortized.heads import centre_maps, map_moments, resize_maps, shift_maps, total_variance
from slimsight.compress.explain.amortized.rbf import rbf_map


def test_the_moments_of_a_radial_map_within_the_image_are_its_parameters() -> None:
    params = torch.tensor([[20.0, 31.0, 4.0], [33.5, 28.25, 5.5]], dtype=torch.float64)
    torch.testing.assert_close(map_moments(rbf_map(params, 64)), params, rtol=1e-4, atol=1e-3)


def test_moments_by_hand() -> None:
    maps = torch.zeros(3, 1, 5, 5)
    maps[0, 0, 1, 3] = 0.7
    maps[1, 0, 0, 0] = maps[1, 0, 4, 0] = 0.2  # apart along one axis only
    expected = torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 2**0.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(map_moments(maps), expected)


def test_maps_move_each_by_its_own_pixels_and_around_the_edge() -> None:
    torch.manual_seed(0)
    maps, shifts = torch.rand(4, 1, 7, 7), torch.tensor([[0, 0], [2, -1], [-3, 5], [7, 9]])
    found = shift_maps(maps, shifts)
    for n, (down, right) in enumerate(shifts.tolist()):
        assert torch.equal(found[n], maps[n].roll((down, right), (1, 2)))


def test_a_map_comes_to_the_middle_to_the_pixel() -> None:
    maps = rbf_map(torch.tensor([[6.0, 9.0, 1.5], [9.4, 5.6, 2.0]]), 16)
    centred = map_moments(centre_maps(maps))[:, :2]
    assert bool(((centred - 7.5).abs() <= 0.55).all())
    torch.testing.assert_close(centre_maps(maps).sum((1, 2, 3)), maps.sum((1, 2, 3)))


def test_maps_are_enlarged_only_where_they_are_small() -> None:
    maps = torch.rand(2, 1, 8, 8)
    assert resize_maps(maps, 8) is maps
    large = resize_maps(maps, 32)
    assert large.shape == (2, 1, 32, 32)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1
    assert float(large.mean()) == pytest.approx(float(maps.mean()), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_total_variance_is_torchs_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    numbers = torch.rand(3000, 4, 5).to(dtype)  # more than one chunk
    expected = float(numbers.double().var(0, correction=0).sum())
    assert total_variance(numbers) == pytest.approx(expected, rel=1e-9)
    assert total_variance(numbers[:1].expand(50, -1, -1)) == 0
