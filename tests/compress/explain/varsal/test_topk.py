"""Soft top-k against Sinkhorn's iterations, finite differences and torch.topk."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimsight.compress.errors import ConfigError
from slimsight.compress.explain.varsal.topk import soft_top_k


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def sinkhorn(scores: Tensor, k: float, epsilon: float) -> Tensor:
    """Entropic optimal transport of one sample's scores (n,) to the anchors 0 and 1, as the method states it."""
    s = (scores - scores.min()) / (scores.max() - scores.min())
    cost = torch.stack([s.square(), (s - 1).square()], 1)
    kernel = torch.exp(-cost / (epsilon * cost.max()))
    n = len(s)
    target = torch.tensor([(n - k) / n, k / n], dtype=s.dtype)
    v = torch.ones(2, dtype=s.dtype)
    for _ in range(20_000):
        u = (1 / n) / (kernel @ v)
        v = target / (kernel.T @ u)
    return n * (u[:, None] * kernel * v)[:, 1]


@pytest.mark.parametrize(("k", "epsilon"), [(2.0, 0.1), (5.5, 0.1), (11.0, 0.5)])
def test_it_is_what_sinkhorn_converges_to(k: float, epsilon: float) -> None:
    scores = draw(12)
    ours = soft_top_k(scores[None], k, epsilon)[0]
    torch.testing.assert_close(ours, sinkhorn(scores, k, epsilon), rtol=0, atol=1e-8)


def test_every_sample_sums_to_its_own_k() -> None:
    k = torch.tensor([0.5, 10.0, 34.9, 17.25])
    mask = soft_top_k(draw(4, 5, 7), k)
    torch.testing.assert_close(mask.sum((1, 2)), k.double(), rtol=0, atol=1e-6)
    assert mask.min() >= 0
    assert mask.max() <= 1


def test_float32_maps_of_224_pixels_sum_to_k() -> None:
    k = torch.tensor([5017.6, 45158.4])
    mask = soft_top_k(draw(2, 224, 224, dtype=torch.float32), k)
    assert mask.dtype == torch.float32
    torch.testing.assert_close(mask.double().sum((1, 2)), k.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("epsilon", [0.1, 0.02, 1.0])
def test_gradients_are_finite_differences(epsilon: float) -> None:
    k = torch.tensor([3.0, 10.5, 1.0])
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, k, epsilon), (draw(3, 3, 4).requires_grad_(),))


def test_the_sum_cannot_be_learned() -> None:
    scores = draw(2, 30).requires_grad_()
    soft_top_k(scores, 10).sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-12


@pytest.mark.parametrize("k", [1, 7, 19])
def test_the_hard_limit_is_torch_topk(k: int) -> None:
    scores = draw(5, 20)
    hard = torch.zeros_like(scores).scatter_(1, scores.topk(k).indices, 1.0)
    torch.testing.assert_close(soft_top_k(scores, k, 1e-7), hard, rtol=0, atol=1e-9)


def test_a_hard_mask_has_no_gradient_and_no_nan() -> None:
    scores = draw(2, 20).requires_grad_()
    (soft_top_k(scores, 5, 1e-9) * draw(2, 20)).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 20, dtype=torch.float64))


def test_scale_and_offset_of_the_scores_do_not_matter() -> None:
    scores = draw(3, 16)
    torch.testing.assert_close(soft_top_k(1e3 * scores - 7, 4), soft_top_k(scores, 4))


def test_constant_maps_keep_all_pixels_alike_and_learn_nothing() -> None:
    scores = torch.stack([torch.full((8,), 3.0), torch.arange(8.0)]).requires_grad_()
    mask = soft_top_k(scores, torch.tensor([2.0, 2.0]))
    (mask * torch.arange(8.0)).sum().backward()
    torch.testing.assert_close(mask[0], torch.full((8,), 0.25))
    assert scores.grad is not None
    assert torch.equal(scores.grad[0], torch.zeros(8))
    assert scores.grad[1].abs().sum() > 0


@pytest.mark.parametrize(("k", "said"), [(0, "0"), (16, "16"), (-1, "-1"), (math.nan, "nan")])
def test_k_out_of_range_is_refused(k: float, said: str) -> None:
    message = rf"top-k of {said} out of 16 pixels: k must be more than 0 and less than 16"
    with pytest.raises(ConfigError, match=message):
        soft_top_k(draw(2, 4, 4), torch.tensor([3.0, k]))


def test_epsilon_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"epsilon is 0; it must be more than 0"):
        soft_top_k(draw(2, 4, 4), 3, 0.0)
