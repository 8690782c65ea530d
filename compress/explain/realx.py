"""REAL-X: a selector of independent pixels and a predictor of random ones (Jethani et al. 2021), as ISP's baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import RealXConfig, SelectorConfig
from ..data import Batch
from ..distributed import per_image
from .heads import Head
from .learn import Objective
from .predictor import DrawMasks, Predictor, divergence
from .quality import Sample
from .rbf import area, relaxed_bernoulli
from .rebar import rebar

_TINY = 1e-6


def pixel_masks(config: RealXConfig) -> DrawMasks:
    """Every pixel on its own, m ~ Bernoulli(keep): hard, or relaxed at the predictor's temperature (ISP's variant)."""

    def draw(images: Tensor) -> Tensor:
        probability = torch.full_like(images[:, :1], config.keep)
        if config.variant == "original":
            return per_image(probability, lambda empty: torch.bernoulli(empty.fill_(config.keep)))
        return relaxed_bernoulli(probability, config.mask_temperature)

    return draw


def realx_objective(predictor: Predictor, head: Head, realx: RealXConfig, config: SelectorConfig) -> Objective:
    """KL(Q_class(x) || q_pred(m * x)) + l E|m|_0, every pixel of m drawn on its own with probability p(x; y).

    E|m|_0, as a share of the image, is the mean of p. ISP's variant draws relaxed masks (``config.temperature``);
    the original draws hard ones, and REBAR estimates the gradient of the divergence.
    """

    def objective(batch: Batch, logits: Tensor, numbers: Tensor, weight: float) -> dict[str, Tensor]:
        probability = head.to_maps(numbers)

        def seen(mask: Tensor) -> Tensor:
            return divergence(logits, predictor(batch.images, mask))

        if realx.variant == "original":
            kl = rebar(probability.clamp(_TINY, 1 - _TINY).logit(), seen, temperature=realx.rebar_temperature).mean()
        else:
            kl = seen(relaxed_bernoulli(probability, config.temperature)).mean()
        size = area(probability).mean()
        return {"loss": kl + weight * size, "kl": kl, "area": size}

    return objective


def realx_sample(realx: RealXConfig) -> Sample | None:
    """How a selector is judged: through hard masks where its predictor has seen nothing else."""
    return torch.bernoulli if realx.variant == "original" else None
