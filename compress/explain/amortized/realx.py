"""REAL-X: masks and loss with one Bernoulli variable per pixel, and REBAR's gradient for hard samples.

REBAR (Tucker et al. 2017) is an unbiased gradient estimate of low variance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import RealXConfig, SelectorConfig
from ...data import Batch
from ...parallel.processes import random_per_image
from .heads import Head
from .learn import Objective
from .predictor import DrawMasks, Predictor, divergence
from .quality import Sample
from .rbf import area, relaxed_bernoulli

_TINY = 1e-6
"""Probabilities and uniform samples stay this far from 0 and 1, where logits are infinite."""


def rebar(
    logits: Tensor, value: Callable[[Tensor], Tensor], *, temperature: float = 0.5, strength: float = 1.0
) -> Tensor:
    """A sample of f(b), b ~ Bernoulli(sigmoid(logits)), whose gradient is an unbiased estimate of that of E[f(b)].

    [f(b) - eta f(s(z~))] d log p(b) + eta d f(s(z)) - eta d f(s(z~)): z is a relaxed sample whose sign is b, z~ one
    drawn again given b, s the sigmoid at ``temperature`` (their Eq. 7). The relaxations only lower the variance; any
    ``temperature`` and any ``strength`` (eta) are unbiased, and a strength of 0 is REINFORCE.

    Args:
        logits: (N, ...) of independent Bernoulli variables.
        value: f, masks as large as ``logits`` in 0..1 -> (N,); called three times (once for a strength of 0). It
            must be defined between 0 and 1, but its values there do not affect the expectation.

    Returns:
        (N,) the values f(b); ``backward`` through them gives the estimate.
    """
    noise, again = (
        random_per_image(logits.detach(), Tensor.uniform_).clamp(_TINY, 1 - _TINY).logit() for _ in range(2)
    )
    z = logits + noise
    hard = (z > 0).to(logits.dtype)
    with torch.no_grad():
        hard_value = value(hard)
    log_p = -F.binary_cross_entropy_with_logits(logits, hard, reduction="none").flatten(1).sum(1)
    if strength == 0:
        return hard_value + _gradient_only(hard_value * log_p)
    # z given b: u' = 1 - p + p v where b is 1 and (1 - p) v where it is 0, written in logits so that nothing rounds.
    given = torch.where(hard > 0, F.softplus(again + F.softplus(logits)), -F.softplus(-again + F.softplus(-logits)))
    relaxed, control = (value(torch.sigmoid(sample / temperature)) for sample in (z, given))
    surrogate = (hard_value - strength * control.detach()) * log_p + strength * (relaxed - control)
    return hard_value + _gradient_only(surrogate)


def _gradient_only(surrogate: Tensor) -> Tensor:
    """Zero, with the gradient of ``surrogate``."""
    return surrogate - surrogate.detach()


def pixel_masks(config: RealXConfig) -> DrawMasks:
    """Draws masks of independent pixels, m ~ Bernoulli(keep): hard, or relaxed (ISP's variant)."""

    def draw(images: Tensor) -> Tensor:
        probability = torch.full_like(images[:, :1], config.keep)
        if config.variant == "original":
            return random_per_image(probability, lambda empty: torch.bernoulli(empty.fill_(config.keep)))
        return relaxed_bernoulli(probability, config.mask_temperature)

    return draw


def realx_objective(predictor: Predictor, head: Head, realx: RealXConfig, config: SelectorConfig) -> Objective:
    """KL(Q_class(x) || q_pred(m * x)) + l E|m|_0, every pixel of m drawn independently with probability p(x; y).

    E|m|_0, as a share of the image, is the mean of p. ISP's variant draws relaxed masks (``config.temperature``);
    the original draws hard ones, and REBAR estimates the gradient of the divergence.
    """

    def objective(batch: Batch, logits: Tensor, numbers: Tensor, weight: float) -> dict[str, Tensor]:
        probability = head.to_maps(numbers)

        def kl_of(mask: Tensor) -> Tensor:
            return divergence(logits, predictor(batch.images, mask))

        if realx.variant == "original":
            kl = rebar(probability.clamp(_TINY, 1 - _TINY).logit(), kl_of, temperature=realx.rebar_temperature).mean()
        else:
            kl = kl_of(relaxed_bernoulli(probability, config.temperature)).mean()
        size = area(probability).mean()
        return {"loss": kl + weight * size, "kl": kl, "area": size}

    return objective


def realx_sample(realx: RealXConfig) -> Sample | None:
    """Draws masks to evaluate a selector: hard ones where its predictor was trained on hard ones only, else None."""
    return torch.bernoulli if realx.variant == "original" else None
