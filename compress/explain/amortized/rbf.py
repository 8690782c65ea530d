"""Radial basis masks, parametrised by row, column and sigma (ISP section 3.2), and the terms of their losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from ...parallel.processes import random_per_image

REFERENCE_SIDE = 32
"""ISP's weights and mask ranges are given for CIFAR-10's side in pixels; others scale with the side."""

_TINY = 1e-6


def rbf_map(params: Tensor, side: int) -> Tensor:
    """P(m_ij = 1) = exp(-((i - c_z)^2 + (j - c_t)^2) / (2 sigma^2)).

    Args:
        params: (N, 3) row c_z, column c_t and sigma > 0, in pixels.
        side: height and width of the map.

    Returns:
        (N, 1, side, side) probabilities.
    """
    grid = torch.arange(side, dtype=params.dtype, device=params.device)
    centre, sigma = torch.split(params.unsqueeze(2), [2, 1], 1)
    profiles = torch.exp(((grid - centre) / sigma).square() * -0.5)  # (N, 2, side): the map is separable
    rows, columns = torch.split(profiles, 1, 1)
    return rows.unsqueeze(3) * columns.unsqueeze(2)


def to_rbf(raw: Tensor, side: int) -> Tensor:
    """RBF parameters of the selector's raw outputs u (N, 3): centre a*tanh(u/a) + side/2, sigma softplus(u)."""
    reach = side / 2 - max(2.0, side / 56)  # 14 at 32 pixels and 108 at 224, as in the released code
    centre = reach * torch.tanh(raw[:, :2] / reach) + side / 2
    sigma = F.softplus(raw[:, 2:]) + _TINY
    return torch.cat([centre, sigma], 1)


def relaxed_bernoulli(probability: Tensor, temperature: float) -> Tensor:
    """A differentiable sample in 0..1: sigmoid((logit p + logistic noise) / temperature)."""
    probability = probability.clamp(_TINY, 1 - _TINY)
    uniform = random_per_image(probability.detach(), Tensor.uniform_).clamp(_TINY, 1 - _TINY)
    return torch.sigmoid((torch.logit(probability) + torch.logit(uniform)) / temperature)


def random_rbf(
    count: int, side: int, *, centre: tuple[float, float], sigma: tuple[float, float], device: torch.device
) -> Tensor:
    """(count, 3) parameters drawn uniformly; ranges in pixels of a 32-pixel side, scaled to ``side``."""
    scale = side / REFERENCE_SIDE
    low = torch.tensor([centre[0], centre[0], sigma[0]], device=device) * scale
    high = torch.tensor([centre[1], centre[1], sigma[1]], device=device) * scale
    return low + (high - low) * random_per_image(torch.empty(count, 3, device=device), Tensor.uniform_)


@contextmanager
def fixed_draws(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Inside the block, random numbers on the CPU and on ``device`` start from ``seed``; then the old states return."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def area(probability: Tensor) -> Tensor:
    """(N,) expected share of the image that a mask keeps."""
    return probability.flatten(1).mean(1)


def power_area(mask: Tensor) -> Tensor:
    """(N,) the released code's area term mean((m + 5e-4)^0.3) (ISP R(m); its gradient grows as pixels close)."""
    return (mask.flatten(1) + 5e-4).pow(0.3).mean(1)


def roughness(mask: Tensor) -> Tensor:
    """S(m): mean over images of half the sum of squared vertical and horizontal differences (ISP Eq. 8)."""
    vertical = (mask[:, :, 1:] - mask[:, :, :-1]).square().sum()
    horizontal = (mask[:, :, :, 1:] - mask[:, :, :, :-1]).square().sum()
    return (vertical + horizontal) / (2 * len(mask))


def same_area_centred(areas: Tensor, side: int) -> Tensor:
    """(N, 3) parameters of centred RBFs whose maps have the given mean areas (N,), by bisection on sigma."""
    low = torch.full_like(areas, 1e-3)
    high = torch.full_like(areas, 100.0 * side)
    middle = torch.full_like(areas, (side - 1) / 2)
    for _ in range(60):
        sigma = (low + high) / 2
        too_large = area(rbf_map(torch.stack([middle, middle, sigma], 1), side)) > areas
        high, low = torch.where(too_large, sigma, high), torch.where(too_large, low, sigma)
    return torch.stack([middle, middle, (low + high) / 2], 1)
