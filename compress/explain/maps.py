"""Maps of probabilities (N, 1, H, W): their size, their moments, and the same map in other places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def enlarged(maps: Tensor, side: int) -> Tensor:
    """(N, 1, side, side) from (N, 1, s, s), bilinear; what has that side already stays as it is."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def moments_of(maps: Tensor) -> Tensor:
    """(N, 3) row and column of the centre of mass, and the standard deviation about it along one axis, in pixels.

    The mean over both axes: of a radial basis mask well within the image these are its own three numbers.
    """
    grid = torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    mass = maps[:, 0].sum((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)
    found = []
    for axis in (2, 1):  # what is left of (rows, columns) after summing over the other one
        profile = maps[:, 0].sum(axis) / mass[:, None]
        centre = (profile * grid).sum(1)
        found.append((centre, (profile * (grid - centre[:, None]) ** 2).sum(1)))
    (row, tall), (column, wide) = found
    return torch.stack([row, column, ((tall + wide) / 2).sqrt()], 1)


def moved(maps: Tensor, shifts: Tensor) -> Tensor:
    """Every map moved by its own whole pixels (N, 2) down and right; what leaves comes in on the other side."""
    side = maps.shape[-1]
    grid = torch.arange(side, device=maps.device)
    rows, columns = ((grid - shifts[:, axis, None]) % side for axis in (0, 1))
    each = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[each, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def to_centre(maps: Tensor) -> Tensor:
    """Every map moved so that its centre of mass comes to the middle of the image, to the pixel."""
    middle = (maps.shape[-1] - 1) / 2
    return moved(maps, (middle - moments_of(maps)[:, :2]).round().long())


def total_variance(numbers: Tensor) -> float:
    """Variance over images, summed over all that is said of one: numbers (N, ...) of any precision."""
    count, squares = len(numbers), 0.0
    mean = torch.zeros(numbers[0].numel(), dtype=torch.float64)
    for part in torch.split(numbers.flatten(1), 1024):
        mean += part.double().sum(0).cpu() / count
    for part in torch.split(numbers.flatten(1), 1024):
        squares += float((part.double().cpu() - mean).square().sum())
    return squares / count
