"""VarSal's objective, and the references that replace removed pixels, drawn at every step.

References are made from statistics of the image (or its batch), so that ``perturb`` commutes with an affine map of the
channels: on raw images in [0, 1] and on normalised ones it is the same perturbation. We apply it to the classifier's
input, raw images, before its normalisation. Noise is not clipped: that would shift its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ...parallel.processes import mean_and_std, random_per_image
from ..amortized.predictor import divergence
from .prior import SoftTVPrior
from .topk import EPSILON, soft_top_k

BLUR = (1 / 16, 1 / 4)
"""Standard deviation of the blur, as a share of the side: 2 to 8 pixels of 32, 14 to 56 of 224."""

MEAN_NOISE = 0.2
"""Standard deviation of the noise around the channel mean, in standard deviations of the image's channel."""

MIN_SIDE = 8
"""Smallest side of an image in pixels."""


def perturb(images: Tensor, mask: Tensor, references: Tensor) -> Tensor:
    """(N, C, H, W) x (*) m = x * m + xhat * (1 - m), mask (N, 1, H, W) in 0..1 (VarSal)."""
    return references + mask * (images - references)


def draw_references(images: Tensor) -> Tensor:
    """(N, C, H, W) xhat: per image one of blur, Gaussian noise, and channel mean with noise, with equal probability.

    Blur: Gaussian, of a width in ``BLUR``, normalised at the borders. Gaussian noise: independent pixels with the
    channel means and standard deviations of the batch. Channel mean: the image's own, with ``MEAN_NOISE``.
    """
    empty = torch.empty(len(images), 1, 1, 1, dtype=torch.int64, device=images.device)
    kind = random_per_image(empty, lambda values: values.random_(3))
    noise = random_per_image(images, Tensor.normal_)
    batch_mean, batch_std = mean_and_std(images, (0, 2, 3), correction=1, keepdim=True)
    gaussian = batch_mean + noise * batch_std
    mean = images.mean((2, 3), keepdim=True) + noise * (MEAN_NOISE * images.std((2, 3), keepdim=True))
    widths = BLUR[0] + (BLUR[1] - BLUR[0]) * random_per_image(images.new_empty(len(images)), Tensor.uniform_)
    return torch.where(kind == 0, blur(images, widths), torch.where(kind == 1, gaussian, mean))


def blur(images: Tensor, widths: Tensor) -> Tensor:
    """Gaussian blur of images (N, C, H, W); widths (N,) are standard deviations as shares of each side."""
    rows, columns = (_gaussian_kernels(side, widths * side, images) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].mT


def _gaussian_kernels(side: int, sigma: Tensor, like: Tensor) -> Tensor:
    """(N, side, side) row-stochastic Gaussian matrices."""
    grid = torch.arange(side, dtype=like.dtype, device=like.device)
    squares = (grid[:, None] - grid[None]).square()
    return torch.softmax(-squares / (2 * sigma.to(like.dtype)[:, None, None].square()), -1)


class VarSalObjective:
    """E_{s ~ q, k} KL(P(x) || P(x (*) T_k(s))) + beta KL(q || prior), q = N(mu, diag(nu)) per image (VarSal).

    One sample s, one k ~ U(kept * h w) and one reference per image and step. The classifier must be frozen and in
    eval mode; gradients flow through it to the maps.

    Args:
        classifier: raw images (N, 3, h, w) to logits.
        height, width: of the images, 8 pixels or more.
        alpha: of the soft-TV prior.
        beta: weight of the prior term; None: 1 / (10 h w), as in the paper.
        epsilon: softness of top-k.
        kept: the smallest and the largest share of pixels that are kept.

    Raises:
        ConfigError: alpha, beta, epsilon or kept is out of range.
        DataError: the images are smaller than 8 pixels.
    """

    def __init__(
        self,
        classifier: nn.Module,
        height: int,
        width: int,
        *,
        alpha: float = 0.4,
        beta: float | None = None,
        epsilon: float = EPSILON,
        kept: tuple[float, float] = (0.1, 0.9),
    ) -> None:
        check_side(height, width)
        if not 0 < kept[0] <= kept[1] < 1:
            raise ConfigError(
                f"VarSal cannot keep {kept[0]:g} to {kept[1]:g} of the pixels: give two shares between 0 and 1, "
                "the smaller first (default 0.1 and 0.9)"
            )
        if beta is not None and not beta >= 0:
            raise ConfigError(f"VarSal's beta is {beta:g}; it must be 0 or more (default 1 / (10 h w))")
        if not epsilon > 0:
            raise ConfigError(f"VarSal's epsilon is {epsilon:g}; it must be more than 0 (default {EPSILON:g})")
        self.classifier = classifier
        self.prior = SoftTVPrior(height, width, alpha)
        self.beta = 1 / (10 * height * width) if beta is None else beta
        self.epsilon = epsilon
        self.kept = kept

    def __call__(self, images: Tensor, maps: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of one step and its terms, as ``slimsight.compress.training.fit`` takes them.

        Args:
            images: (N, 3, h, w).
            maps: (N, 2, h, w) mu and log nu.
            reference: (N, classes) the classifier's logits of ``images``; computed if not given.

        Returns:
            "loss", "kl" (of the predictions) and "prior_kl" (of the maps; before beta), means over images in nats.
        """
        assert maps.shape == (len(images), 2, *images.shape[2:]), f"maps are {tuple(maps.shape)}"
        mean, log_variance = maps[:, 0].float(), maps[:, 1].float()
        sample = mean + torch.exp(log_variance / 2) * random_per_image(mean.detach(), Tensor.normal_)
        low, high = (share * mean[0].numel() for share in self.kept)
        k = low + (high - low) * random_per_image(mean.new_empty(len(images)), Tensor.uniform_)
        mask = soft_top_k(sample, k, self.epsilon)[:, None]
        if reference is None:
            with torch.no_grad():
                reference = self.classifier(images)
        perturbed = perturb(images, mask, draw_references(images))
        kl = divergence(reference, self.classifier(perturbed)).mean()
        prior_kl = self.prior.kl(mean, log_variance).mean()
        return {"loss": kl + self.beta * prior_kl, "kl": kl, "prior_kl": prior_kl}


def check_side(height: int, width: int) -> None:
    """Raise DataError for images smaller than ``MIN_SIDE``."""
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"images of {height} x {width} pixels are too small for VarSal: give images of {MIN_SIDE} x {MIN_SIDE} "
            "pixels or larger"
        )
