"""Statistics of saliency maps: mass, regions and centres of one, rank correlation and SSIM of two."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import DataError
from ..base import Saliency
from .ranking import is_constant

INFORMATIVE, CONSTANT, ZERO = 0, 1, 2
"""Kinds of maps: with several values; with one value everywhere; with no value above zero."""

_FLAT: Final = 1e-6  # range of a constant map after rounding, relative to its largest value


def region(mass: Tensor, share: float) -> Tensor:
    """(N, H, W) bool: the smallest set of pixels with ``share`` of the mass (N, H, W); of equal pixels the first."""
    flat = mass.flatten(1).double()
    ordered, order = flat.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    inside = before < share * flat.sum(1, keepdim=True)
    return torch.zeros_like(inside).scatter_(1, order, inside).view(mass.shape)


def mass_of(saliency: Saliency) -> Tensor:
    """(N, H, W) float64 on the CPU: the non-negative part of ``Saliency.importance``."""
    return saliency.importance.detach().cpu().double().clamp_min(0)


def centres_of_mass(mass: Tensor) -> Tensor:
    """(N, 2) row and column, in pixels, of maps (N, H, W) without negative values; NaN for a map of zeros."""
    rows, columns = (torch.arange(count, dtype=mass.dtype) for count in mass.shape[1:])
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(2) * rows).sum(1) / total, (mass.sum(1) * columns).sum(1) / total], 1)


def map_kinds(mass: Tensor) -> Tensor:
    """(N,) INFORMATIVE, CONSTANT or ZERO for each map (N, H, W)."""
    low, high = mass.flatten(1).aminmax(dim=1)
    flat = torch.where(high - low <= _FLAT * high, CONSTANT, INFORMATIVE)
    return torch.where(high == 0, ZERO, flat)


WINDOW, DATA_RANGE = 5, 2.0
"""Window and range of values of SSIM, for maps in [-1, 1]."""

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, H, W) divided by their largest absolute value, so in [-1, 1]; an all-zero map stays as it is."""
    largest = maps.abs().flatten(1).amax(1)
    return maps / torch.where(largest > 0, largest, 1.0)[:, None, None]


def spearman(ours: Tensor, theirs: Tensor) -> Tensor:
    """(N,) rank correlation of maps (N, H, W), equal pixels sharing their mean rank; NaN where a map is constant."""
    from scipy.stats import rankdata

    a, b = (torch.from_numpy(rankdata(maps.flatten(1).numpy(), axis=1).astype(np.float64)) for maps in (ours, theirs))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    correlation = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(is_constant(ours) | is_constant(theirs), torch.nan, correlation)


def ssim(ours: Tensor, theirs: Tensor) -> Tensor:
    """(N,) mean structural similarity of maps (N, H, W) in [-1, 1] (Wang et al. 2004).

    Uniform window of 5 x 5, unbiased covariances, only windows inside the image.

    Raises:
        DataError: the maps are smaller than the window.
    """
    height, width = ours.shape[1:]
    if min(height, width) < WINDOW:
        raise DataError(
            f"images of {width} x {height} pixels are too small for SSIM's window of {WINDOW} x {WINDOW}: leave sanity "
            "out of --tests"
        )
    a, b = ours.double().unsqueeze(1), theirs.double().unsqueeze(1)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, WINDOW, stride=1)

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (unbiased * (mean(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (_K1 * DATA_RANGE) ** 2, (_K2 * DATA_RANGE) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)
