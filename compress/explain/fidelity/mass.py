"""What maps hold: where their mass lies, and whether they say anything at all."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..base import Saliency

SAYS, CONSTANT, ZERO = 0, 1, 2
"""A map says something; has one value everywhere; has nothing above zero."""

_FLAT: Final = 1e-6  # of the largest value: what rounding leaves of a constant map


def region(mass: Tensor, share: float) -> Tensor:
    """(N, H, W) bool: the smallest set of pixels that holds ``share`` of a map's mass (N, H, W).

    Of equal pixels the first ones.
    """
    flat = mass.flatten(1).double()
    ordered, order = flat.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    inside = before < share * flat.sum(1, keepdim=True)
    return torch.zeros_like(inside).scatter_(1, order, inside).view(mass.shape)


def mass_of(saliency: Saliency) -> Tensor:
    """(N, H, W) float64 on the CPU: the non-negative part of what ranks pixels."""
    return saliency.importance.detach().cpu().double().clamp_min(0)


def centres_of_mass(mass: Tensor) -> Tensor:
    """(N, 2) row and column, in pixels, of maps (N, H, W) without negative values; NaN for a map of zeros."""
    rows, columns = (torch.arange(count, dtype=mass.dtype) for count in mass.shape[1:])
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(2) * rows).sum(1) / total, (mass.sum(1) * columns).sum(1) / total], 1)


def kinds_of(mass: Tensor) -> Tensor:
    """(N,) SAYS, CONSTANT or ZERO, by what is in each map (N, H, W)."""
    low, high = mass.flatten(1).aminmax(dim=1)
    flat = torch.where(high - low <= _FLAT * high, CONSTANT, SAYS)
    return torch.where(high == 0, ZERO, flat)
