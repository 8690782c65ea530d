"""What stands in for removed pixels: references without the image's evidence, drawn anew at every step.

All of them are made of an image's (or its batch's) own statistics, so that ``perturb`` commutes with an affine map of
the channels: on raw images in [0, 1] and on normalised ones it is the same perturbation. We apply it to what the
classifier takes, raw images, before its normalisation. Noise is not clipped: that would move its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...distributed import moments, per_image

BLUR = (1 / 16, 1 / 4)
"""Standard deviation of the blur, as a share of the side: 2 to 8 pixels of 32, 14 to 56 of 224."""

MEAN_NOISE = 0.2
"""Noise around the channel mean, in standard deviations of the image's channel."""


def perturb(images: Tensor, mask: Tensor, references: Tensor) -> Tensor:
    """(N, C, H, W) x (*) m = x * m + xhat * (1 - m), mask (N, 1, H, W) in 0..1 (VarSal)."""
    return references + mask * (images - references)


def draw_references(images: Tensor) -> Tensor:
    """(N, C, H, W) xhat: per image one of blur, Gaussian noise, and channel mean with noise, by equal chance.

    Blur: Gaussian, as wide as ``BLUR`` says, normalised at the borders. Gaussian noise: independent pixels with the
    channel means and standard deviations of the batch. Channel mean: the image's own, with ``MEAN_NOISE``.
    """
    number = torch.empty(len(images), 1, 1, 1, dtype=torch.int64, device=images.device)
    kind = per_image(number, lambda empty: empty.random_(3))
    noise = per_image(images, Tensor.normal_)
    centre, deviation = moments(images, (0, 2, 3), correction=1, keepdim=True)
    everywhere = centre + noise * deviation
    mean = images.mean((2, 3), keepdim=True) + noise * (MEAN_NOISE * images.std((2, 3), keepdim=True))
    widths = BLUR[0] + (BLUR[1] - BLUR[0]) * per_image(images.new_empty(len(images)), Tensor.uniform_)
    return torch.where(kind == 0, blur(images, widths), torch.where(kind == 1, everywhere, mean))


def blur(images: Tensor, widths: Tensor) -> Tensor:
    """(N, C, H, W) images under Gaussian kernels; widths (N,) are standard deviations as shares of each side."""
    rows, columns = (_kernels(side, widths * side, images) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].mT


def _kernels(side: int, sigma: Tensor, like: Tensor) -> Tensor:
    """(N, side, side) row-stochastic Gaussian matrices."""
    grid = torch.arange(side, dtype=like.dtype, device=like.device)
    squares = (grid[:, None] - grid[None]).square()
    return torch.softmax(-squares / (2 * sigma.to(like.dtype)[:, None, None].square()), -1)
