"""Radial basis masks against pixel-by-pixel references and hand-computed figures."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimsight.compress.explain.amortized.rbf import (
    area,
    fixed_draws,
    power_area,
    random_rbf,
    rbf_map,
    relaxed_bernoulli,
    roughness,
    same_area_at,
    same_area_centred,
    to_rbf,
)

CPU = torch.device("cpu")
# One image, two by two pixels: differences downwards .5 and -.5, to the right 1 and 0.
SMALL = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])


def naive_map(params: Tensor, side: int) -> Tensor:
    """The slow, obvious reference: ISP's P(m_ij = 1), one pixel after the other."""
    result = torch.zeros(len(params), 1, side, side, dtype=params.dtype)
    for n, (row, column, sigma) in enumerate(params.tolist()):
        for i in range(side):
            for j in range(side):
                result[n, 0, i, j] = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
    return result


@settings(max_examples=25, deadline=None)
@given(
    side=st.integers(1, 9),
    params=st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12), st.floats(0.2, 30)), min_size=1, max_size=3),
)
def test_map_is_the_formula_at_every_pixel(side: int, params: list[tuple[float, float, float]]) -> None:
    given_params = torch.tensor(params, dtype=torch.float64)
    found = rbf_map(given_params, side)
    assert found.shape == (len(params), 1, side, side)
    torch.testing.assert_close(found, naive_map(given_params, side), rtol=1e-10, atol=1e-12)


def test_map_has_rows_first_and_keeps_single_precision() -> None:
    found = rbf_map(torch.tensor([[2.0, 5.0, 1.5]]), 8)[0, 0]
    assert found.dtype == torch.float32
    assert found[2, 5] == 1
    assert float(found[4, 5]) == pytest.approx(math.exp(-4 / 4.5))
    assert float(found[2, 4]) == pytest.approx(math.exp(-1 / 4.5))


@pytest.mark.parametrize(("side", "reach"), [(32, 14), (224, 108)])
def test_centres_reach_as_far_as_the_released_code_lets_them(side: int, reach: float) -> None:
    raw = torch.tensor([[0.0, 0.0, 0.0], [1e4, -1e4, 0.0], [5.0, -5.0, 0.0]])
    bent = reach * math.tanh(5 / reach)
    expected = torch.tensor([[0, 0], [reach, -reach], [bent, -bent]]) + side / 2
    torch.testing.assert_close(to_rbf(raw, side)[:, :2], expected)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_sigma_is_a_bounded_softplus_and_always_positive(side: int) -> None:
    raw = torch.tensor([[0.0, 0.0, u] for u in (-1e4, -3.0, 0.0, 10.0, 1e3)])
    softplus = torch.tensor([0.0, math.log1p(math.exp(-3)), math.log(2), math.log1p(math.exp(10)), 1e3])
    sigma = to_rbf(raw, side)[:, 2]
    assert (sigma > 0).all()
    most = 0.3 * side
    expected = torch.tensor([most * math.tanh(float(value) / most) for value in softplus])
    torch.testing.assert_close(sigma, expected, atol=2e-6, rtol=1e-5)
    assert float(sigma.max()) <= most + 1e-5
    unbounded = to_rbf(raw, side, math.inf)[:, 2]  # of selectors that earlier versions learned
    torch.testing.assert_close(unbounded, softplus, atol=2e-6, rtol=1e-5)


def test_the_largest_mask_covers_the_centre_and_cannot_fill_an_area_from_a_corner() -> None:
    """A quarter of the image, the usual target area, is covered by none that lies in a corner."""
    raw = torch.tensor([[0.0, 0.0, 1e4], [-1e4, -1e4, 1e4]])
    centred, cornered = area(rbf_map(to_rbf(raw, 224), 224)).tolist()
    assert centred == pytest.approx(0.46, abs=0.01)
    assert cornered == pytest.approx(0.15, abs=0.015)


def test_masks_of_an_area_are_found_wherever_they_lie() -> None:
    torch.manual_seed(0)
    centres, areas = 2 + 28 * torch.rand(50, 2), 0.02 + 0.6 * torch.rand(50)
    params = same_area_at(centres, areas, 32)
    assert torch.equal(params[:, :2], centres)
    torch.testing.assert_close(area(naive_map(params.double(), 32)).float(), areas, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("probability", [0.02, 0.3, 0.5, 0.9])
def test_a_sample_is_above_one_half_as_often_as_it_should(probability: float, temperature: float) -> None:
    torch.manual_seed(0)
    count = 200_000
    share = float((relaxed_bernoulli(torch.full((count,), probability), temperature) > 0.5).double().mean())
    assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count)


def test_certain_pixels_are_certain() -> None:
    """With the supplement's Eq. 14 as printed the first share would be 1 - 1/e = .632."""
    torch.manual_seed(0)
    certain = torch.full((200_000,), 1 - 1e-6)
    assert float((relaxed_bernoulli(certain, 1.0) > 0.5).double().mean()) >= 0.9999
    assert float((relaxed_bernoulli(1 - certain, 1.0) > 0.5).double().mean()) <= 1e-4


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_a_lower_temperature_makes_harder_samples(temperature: float) -> None:
    torch.manual_seed(0)
    sample = relaxed_bernoulli(torch.full((200_000,), 0.5), temperature)
    # Beyond .99 or .01 lies what the logistic noise throws further than T ln 99.
    expected = 2 / (1 + 99**temperature)
    assert float(((sample - 0.5).abs() > 0.49).double().mean()) == pytest.approx(expected, abs=5e-3)


def test_gradients_are_finite_everywhere() -> None:
    torch.manual_seed(0)
    points = torch.tensor([0.0, 1e-12, 1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6, 1.0])
    for temperature in (0.1, 1.0):
        probability = points.repeat(1000, 1).requires_grad_()
        sample = relaxed_bernoulli(probability, temperature)
        sample.sum().backward()
        assert probability.grad is not None
        assert sample.isfinite().all()
        assert ((sample >= 0) & (sample <= 1)).all()
        assert probability.grad.isfinite().all()
        assert (probability.grad[:, 3:6].mean(0) > 0).all()


def test_gradients_reach_the_parameters_through_a_sampled_map() -> None:
    params = torch.tensor([[3.0, 4.0, 1e-6], [3.2, 4.1, 2.0], [3.0, 4.0, 1e6]], requires_grad=True)
    relaxed_bernoulli(rbf_map(params, 8), 0.1).sum().backward()
    assert params.grad is not None
    assert params.grad.isfinite().all()
    assert (params.grad[1] != 0).all()


@pytest.mark.parametrize(("side", "scale"), [(32, 1.0), (16, 0.5), (224, 7.0)])
def test_random_masks_fill_their_ranges_scaled_to_the_side(side: int, scale: float) -> None:
    torch.manual_seed(0)
    params = random_rbf(20_000, side, centre=(2, 30), sigma=(5, 11), device=CPU) / scale
    assert params.shape == (20_000, 3)
    for column, low, high in ((0, 2, 30), (1, 2, 30), (2, 5, 11)):
        values, width = params[:, column], high - low
        assert low <= float(values.min()) < low + 0.01 * width
        assert high - 0.01 * width < float(values.max()) <= high + 1e-5
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.01 * width)
        assert float(values.std()) == pytest.approx(width / math.sqrt(12), rel=0.02)
    assert abs(float(torch.corrcoef(params.T)[0, 1])) < 0.03


def test_area_is_the_mean_probability_of_each_map() -> None:
    torch.testing.assert_close(area(torch.cat([SMALL, SMALL / 2])), torch.tensor([0.5, 0.25]))


def test_power_area_is_the_released_codes_term() -> None:
    expected = (0.0005**0.3 + 1.0005**0.3 + 2 * 0.5005**0.3) / 4
    torch.testing.assert_close(power_area(torch.cat([SMALL, SMALL])), torch.tensor([expected, expected]))


def test_roughness_is_half_the_squared_differences_per_image() -> None:
    assert float(roughness(SMALL)) == pytest.approx((0.25 + 0.25 + 1 + 0) / 2)
    assert float(roughness(torch.cat([SMALL, torch.ones(1, 1, 2, 2)]))) == pytest.approx(1.5 / 4)


@pytest.mark.parametrize("side", [9, 16, 32])
def test_centred_masks_have_the_areas_asked_for(side: int) -> None:
    areas = torch.tensor([0.02, 0.1, 0.25, 0.5, 0.8, 0.97])
    params = same_area_centred(areas, side)
    assert (params[:, :2] == (side - 1) / 2).all()
    torch.testing.assert_close(area(naive_map(params, side)), areas, rtol=0, atol=1e-3)
    assert (params[1:, 2] > params[:-1, 2]).all()


def test_fixed_draws_repeat_within_and_change_nothing_outside() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    found = []
    for _ in range(2):
        with fixed_draws(CPU):
            found.append(torch.rand(3))
    assert found[0].tolist() == found[1].tolist()
    with contextlib.suppress(ZeroDivisionError), fixed_draws(CPU):
        raise ZeroDivisionError
    assert torch.rand(4).tolist() == expected.tolist()


def test_fixed_draws_put_the_devices_generator_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every epoch after a validation on a GPU would draw the same masks."""
    forked: list[torch.device] = []

    def fork(devices: list[torch.device]) -> contextlib.AbstractContextManager[None]:
        forked.extend(devices)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    with fixed_draws(torch.device("cuda", 1)):
        pass
    assert forked == [torch.device("cuda", 1)]
