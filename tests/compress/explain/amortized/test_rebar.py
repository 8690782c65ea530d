"""REBAR on six pixels, where all 64 masks can be listed."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from slimsight.compress.explain.amortized.realx import rebar

PIXELS, SAMPLES = 6, 40_000
LOGITS = torch.tensor([-1.5, -0.5, 0.0, 0.4, 1.0, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 1.5, -1.0, 3.0], dtype=torch.float64)


def value(masks: Tensor) -> Tensor:
    """Pixels that work together: nothing a sum of single pixels could say."""
    return torch.tanh(masks @ WEIGHTS) + masks[:, 0] * masks[:, 3] + 2 * (masks.mean(1) - 0.45) ** 2 + 1.5


def enumerated() -> tuple[float, Tensor]:
    """E[f] over all masks and its gradient."""
    logits = LOGITS.clone().requires_grad_()
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=PIXELS)), dtype=torch.float64)
    p = torch.sigmoid(logits)
    chances = torch.where(masks > 0, p, 1 - p).prod(1)
    assert float(chances.detach().sum()) == pytest.approx(1)
    mean = (chances * value(masks)).sum()
    return float(mean.detach()), torch.autograd.grad(mean, logits)[0]


def estimates(**settings: float) -> tuple[Tensor, Tensor]:
    """(SAMPLES,) values and (SAMPLES, PIXELS) gradients, one of each per sample."""
    torch.manual_seed(0)
    logits = LOGITS.expand(SAMPLES, PIXELS).clone().requires_grad_()
    found = rebar(logits, value, **settings)
    return found.detach(), torch.autograd.grad(found.sum(), logits)[0]


def distance(gradients: Tensor) -> float:
    """Hotelling's T^2 of the mean from the enumerated gradient: chi-squared with 6 degrees of freedom if unbiased."""
    off = gradients.mean(0) - enumerated()[1]
    return float(len(gradients) * off @ torch.linalg.solve(torch.cov(gradients.T), off))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_gradient_is_unbiased(temperature: float, strength: float) -> None:
    """Jointly within the 95 % region of the enumerated gradient, whatever the temperature and the strength."""
    found, gradients = estimates(temperature=temperature, strength=strength)
    assert distance(gradients) < chi2.ppf(0.95, PIXELS)
    mean, _ = enumerated()
    assert abs(float(found.mean()) - mean) < 1.96 * float(found.std()) / SAMPLES**0.5


def test_the_check_finds_a_biased_gradient() -> None:
    """That of the relaxed masks themselves."""
    torch.manual_seed(0)
    logits = LOGITS.expand(SAMPLES, PIXELS).clone().requires_grad_()
    noise = torch.rand_like(logits).logit()
    relaxed = value(torch.sigmoid((logits + noise) / 0.5)).sum()
    assert distance(torch.autograd.grad(relaxed, logits)[0]) > 10 * chi2.ppf(0.95, PIXELS)


def test_its_variance_is_below_that_of_reinforce() -> None:
    ours, reinforce = (float(estimates(temperature=0.5, strength=strength)[1].var(0).sum()) for strength in (1.0, 0.0))
    assert ours < 0.5 * reinforce


def test_values_are_those_of_hard_masks_with_the_right_chances() -> None:
    seen: list[Tensor] = []

    def keep(masks: Tensor) -> Tensor:
        seen.append(masks.detach())
        return masks.sum(1)

    torch.manual_seed(0)
    logits = LOGITS.expand(SAMPLES, PIXELS).clone().requires_grad_()
    found = rebar(logits, keep)
    hard, relaxed, control = seen
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(found.detach(), hard.sum(1))
    torch.testing.assert_close(hard.mean(0), torch.sigmoid(LOGITS), rtol=0, atol=0.01)
    # Both relaxations fall on the same side as the mask, and are spread alike.
    assert bool((((relaxed > 0.5) == (hard > 0.5)) & ((control > 0.5) == (hard > 0.5))).all())
    torch.testing.assert_close(relaxed.mean(0), control.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(relaxed.std(0), control.std(0), rtol=0, atol=0.01)
    assert not torch.allclose(relaxed, control)


def test_saturated_pixels_give_finite_gradients() -> None:
    logits = torch.tensor([[-80.0, 80.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(rebar(logits, lambda masks: masks.sum(1)).sum(), logits)
    assert bool(torch.isfinite(gradient).all())
