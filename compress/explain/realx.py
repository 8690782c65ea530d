"""REAL-X: a selector of independent pixels and a predictor of random ones (Jethani et al. 2021), as ISP's baseline."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..config import RealXConfig, SelectorConfig
from ..data import Batch, BatchSource
from ..progress import SILENT, Progress
from ..training import History
from .learn import fit_at_area
from .predictor import DrawMasks, Predictor, divergence
from .quality import SelectorQuality, judge_selector
from .rbf import area, relaxed_bernoulli
from .rebar import rebar
from .selector import ExplainedClassifier

_TINY = 1e-6


def pixel_masks(config: RealXConfig) -> DrawMasks:
    """Every pixel on its own, m ~ Bernoulli(keep): hard, or relaxed at the predictor's temperature (ISP's variant)."""

    def draw(images: Tensor) -> Tensor:
        probability = torch.full_like(images[:, :1], config.keep)
        if config.variant == "original":
            return torch.bernoulli(probability)
        return relaxed_bernoulli(probability, config.mask_temperature)

    return draw


def train_realx(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    realx: RealXConfig,
    config: SelectorConfig,
    target_area: float,
    progress: Progress = SILENT,
) -> History:
    """min KL(Q_class(x) || q_pred(m * x)) + l E|m|_0, every pixel of m drawn on its own with probability p(x; y).

    E|m|_0, as a share of the image, is the mean of p; l follows ``target_area``. ISP's variant draws relaxed masks
    (``config.temperature``); the original draws hard ones, and REBAR estimates the gradient of the divergence.
    """
    predictor.eval().requires_grad_(False)
    head = network.selector.head

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

    return fit_at_area(
        network,
        train,
        fabric,
        objective=objective,
        judge=lambda: judge_realx(network, predictor, val, fabric, realx=realx, brief=True),
        config=config,
        target_area=target_area,
        progress=progress,
    )


def judge_realx(
    network: ExplainedClassifier,
    predictor: Predictor,
    val: BatchSource,
    fabric: Fabric,
    *,
    realx: RealXConfig,
    brief: bool = False,
) -> SelectorQuality:
    """``judge_selector``, through hard masks where the predictor has seen nothing else."""
    sample = torch.bernoulli if realx.variant == "original" else None
    return judge_selector(network, predictor, val, fabric, brief=brief, sample=sample)
