"""Pixel perturbation: how little changes when the least salient pixels go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models import Classifier
from ...progress import SILENT, Progress
from .estimate import Curve
from .ranking import to_ranks
from .removal import BATCH, answers

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Perturbation:
    """Over the share of pixels removed, the least salient first; lower is better.

    ``kl``: KL(original || perturbed) in nats (VarSal); ``change``: |p' - p| / p of the predicted class (PruneGrad).
    """

    kl: Curve
    change: Curve

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"kl": self.kl.to_dict(), "change": self.change.to_dict()}


def pixel_perturbation(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> Perturbation:
    """Set the lowest ``shares`` of the pixels of each image (N, 3, H, W) to zero after normalisation.

    Args:
        maps: (N, H, W) to rank pixels by (``Saliency.importance``); ties are broken by ``seed``.
    """
    ranks = to_ranks(maps, seed=seed)
    pixels = maps[0].numel()
    windows = [(round(share * pixels), pixels) for share in shares]
    found = answers(
        classifier, images, ranks, windows, _measure, what="perturbation", batch_size=batch_size, progress=progress
    )
    return Perturbation(Curve.of(shares, found[:, :, 0]), Curve.of(shares, found[:, :, 1]))


def _measure(whole: Tensor, now: Tensor) -> Tensor:
    kl = (whole.exp() * (whole - now)).sum(1)
    top = whole.argmax(1, keepdim=True)
    change = (now.gather(1, top) - whole.gather(1, top)).expm1().abs()  # |p' - p| / p
    return torch.stack([kl, change[:, 0]], 1)
