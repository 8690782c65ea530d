"""The soft-TV prior against dense linear algebra."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from slimsight.compress.errors import ConfigError
from slimsight.compress.explain.varsal.prior import SoftTVPrior, alpha_limit


def dense(n: int, alpha: float) -> Tensor:
    beside = torch.full((n - 1,), alpha, dtype=torch.float64)
    return torch.eye(n, dtype=torch.float64) + beside.diag(1) + beside.diag(-1)


def reference_kl(mean: Tensor, log_variance: Tensor, alpha: float) -> Tensor:
    """The full hw x hw matrices, row-major."""
    _, height, width = mean.shape
    covariance = torch.kron(dense(height, alpha), dense(width, alpha))
    prior = MultivariateNormal(torch.zeros(height * width, dtype=torch.float64), covariance)
    return kl_divergence(MultivariateNormal(mean.flatten(1), torch.diag_embed(log_variance.flatten(1).exp())), prior)


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, *shape, dtype=torch.float64, generator=random)
    return mean.requires_grad_(), log_variance.requires_grad_()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.5])
def test_kl_and_its_gradients_are_those_of_dense_gaussians_for_all_small_sizes(alpha: float) -> None:
    for height, width in itertools.product(range(1, 13), repeat=2):
        mean, log_variance = draw(2, height, width, seed=height * width)
        ours = SoftTVPrior(height, width, alpha).kl(mean, log_variance)
        theirs = reference_kl(mean, log_variance, alpha)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)
        weights = torch.tensor([1.0, -2.0], dtype=torch.float64)  # each sample's own gradient
        found = torch.autograd.grad((ours * weights).sum(), (mean, log_variance))
        expected = torch.autograd.grad((theirs * weights).sum(), (mean, log_variance))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


def test_alpha_close_to_its_limit() -> None:
    alpha = alpha_limit(8) * (1 - 1e-4)
    mean, log_variance = draw(3, 8, 5)
    assert alpha > 0.53
    ours = SoftTVPrior(8, 5, alpha).kl(mean, log_variance)
    torch.testing.assert_close(ours, reference_kl(mean, log_variance, alpha), rtol=1e-9, atol=0)


def test_the_kl_of_the_prior_to_itself_is_zero() -> None:
    zeros = torch.zeros(2, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(SoftTVPrior(9, 4, 0.0).kl(zeros, zeros), torch.zeros(2, dtype=torch.float64))


def test_rough_maps_cost_more_than_smooth_ones() -> None:
    stripes = torch.ones(1, 16, 16)
    stripes[:, ::2] = -1
    prior = SoftTVPrior(16, 16)
    zeros = torch.zeros_like(stripes)
    rough, smooth, none = (prior.kl(mean, zeros) for mean in (stripes, stripes.abs(), zeros))
    assert rough - none > 5 * (smooth - none)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_solve_inverts_the_covariance_of_large_maps(dtype: torch.dtype) -> None:
    """Dense, 1000 x 900 maps would need 900,000 unknowns and 6 TB."""
    maps = torch.randn(1, 1000, 900, dtype=dtype, generator=torch.Generator().manual_seed(0))
    solved = SoftTVPrior(1000, 900).precision_times(maps)
    back = dense(1000, 0.4).to(dtype) @ solved @ dense(900, 0.4).to(dtype)
    scale = solved.abs().max() * torch.finfo(dtype).eps
    assert (back - maps).abs().max() < 10 * scale


def test_float32_agrees_with_float64_at_224_pixels() -> None:
    mean, log_variance = draw(2, 224, 224)
    prior = SoftTVPrior(224, 224)
    wide = prior.kl(mean, log_variance)
    narrow = prior.kl(mean.float(), log_variance.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=0)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(SoftTVPrior(3, 5, 0.45).kl, draw(2, 3, 5))


def test_a_prior_first_used_in_a_validation_learns_afterwards() -> None:
    prior = SoftTVPrior(4, 4)
    mean, log_variance = draw(1, 4, 4)
    with torch.inference_mode():
        before = prior.kl(mean, log_variance)
    after = prior.kl(mean, log_variance)
    after.backward()
    torch.testing.assert_close(before, after.detach())
    assert mean.grad is not None
    assert mean.grad.abs().sum() > 0


@pytest.mark.parametrize("alpha", [-0.1, alpha_limit(12), 0.6, math.nan])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"maps of 12 x 8 pixels allow 0 to less than 0\.514964: choose"):
        SoftTVPrior(12, 8, alpha)
