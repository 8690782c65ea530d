"""Radial basis masks, parametrised by row, column and sigma (ISP section 3.2), and the terms of their losses."""

from __future__ import annotations

import math
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


SIGMA_SHARE = 0.3
"""Largest sigma, as a share of the side: a centred map covers 0.46 of the image then, one in a corner 0.14. Wider maps
of a usual target area can only lie in a corner, where they explain nothing."""


def centre_reach(side: int) -> float:
    """Largest distance of a centre from the middle, along an axis: 14 at 32 pixels, 108 at 224 (released code)."""
    return side / 2 - max(2.0, side / 56)


def to_rbf(raw: Tensor, side: int, sigma_share: float = SIGMA_SHARE) -> Tensor:
    """RBF parameters of the selector's raw outputs u (N, 3): centre a*tanh(u/a) + side/2, sigma b*tanh(softplus(u)/b).

    Both are smooth and bounded: the centre lies within the image, sigma is at most b = ``sigma_share`` x side. The
    released code does not bound sigma: softplus(u), as an infinite ``sigma_share`` does here.
    """
    reach = centre_reach(side)
    centre = reach * torch.tanh(raw[:, :2] / reach) + side / 2
    sigma = F.softplus(raw[:, 2:])
    if math.isfinite(sigma_share):
        most = sigma_share * side
        sigma = most * torch.tanh(sigma / most)
    return torch.cat([centre, sigma + _TINY], 1)


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
    """(N, 3) parameters of centred RBFs whose maps have the given mean areas (N,)."""
    return same_area_at(areas.new_full((len(areas), 2), (side - 1) / 2), areas, side)


def same_area_at(centres: Tensor, areas: Tensor, side: int) -> Tensor:
    """(N, 3) parameters of RBFs at centres (N, 2) whose maps have the mean areas (N,), by bisection on sigma."""
    grid = torch.arange(side, dtype=areas.dtype, device=areas.device)
    squares = (grid - centres.unsqueeze(2)).square() * -0.5  # (N, 2, side)
    low = torch.full_like(areas, 1e-3)
    high = torch.full_like(areas, 100.0 * side)
    for _ in range(60):
        sigma = (low + high) / 2
        profiles = torch.exp(squares / sigma.square()[:, None, None]).mean(2)  # the map is separable
        too_large = profiles.prod(1) > areas
        high, low = torch.where(too_large, sigma, high), torch.where(too_large, low, sigma)
    return torch.cat([centres, ((low + high) / 2).unsqueeze(1)], 1)
