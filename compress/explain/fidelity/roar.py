"""ROAR (Hooker et al. 2019): is what an explanation calls salient missed by a classifier that learns without it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Batches, ImageSet
from ...models import Classifier
from ...training import logits_of
from .estimate import Estimate
from .ranking import to_ranks

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_EVALUATION_BATCH = 256

Learn = Callable[[Classifier, ImageSet], object]
"""Trains an untrained classifier on images; the caller's recipe, the same for every explainer."""


@dataclass(frozen=True)
class RoarPoint:
    """Test accuracy (0..1) of a classifier trained and tested without the most salient ``share`` of every image."""

    share: float
    accuracy: Estimate


@dataclass(frozen=True)
class Roar:
    """One explainer's points, from one training each. The lower they are below those of random maps, the better."""

    points: tuple[RoarPoint, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def roar(
    build: Callable[[], Classifier],
    learn: Learn,
    train: ImageSet,
    test: ImageSet,
    train_maps: Tensor,
    test_maps: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> Roar:
    """Remove the most salient pixels of training and test images, train from scratch, test on what is left.

    Standard errors are over test images; what another seed's training would change is not in them. What is removed
    leaves an outline, which the new classifier may read: dark images keep their drawing in mean grey.

    Args:
        build: an untrained classifier; drawn anew, with the same random numbers, for every share.
        train_maps, test_maps: (N, H, W) maps of ``train`` and ``test``. They must explain PREDICTED classes: maps of
            true labels would tell the new classifier the label by what they remove.
        shares: of the pixels of an image, each 0..1; 0 removes nothing.
    """
    points = []
    for share in shares:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build()
            mean = model.normalize.mean.flatten()
            learn(model, without_top(train, train_maps, share, mean, seed=seed))
            left = without_top(test, test_maps, share, mean, seed=seed)
        logits = logits_of(model, Batches(left, min(_EVALUATION_BATCH, len(left))))
        hits = (logits.argmax(1) == torch.from_numpy(test.labels)).double()
        points.append(RoarPoint(share, Estimate.of(hits)))
    return Roar(tuple(points), seed)


def without_top(images: ImageSet, maps: Tensor, share: float, mean: Tensor, *, seed: int = 0) -> ImageSet:
    """The images without the most salient ``share`` of their pixels: bytes of mean grey, ``mean`` (3,) in [0, 1].

    Bytes, as such a data set would be stored: grey is off by half a level at most. Ties are broken by ``seed``.
    """
    assert len(images) == len(maps), "one map per image"
    pixels = maps[0].numel()
    kept = to_ranks(maps, seed=seed) < pixels - round(share * pixels)
    grey = (mean.cpu() * 255).round().to(torch.uint8).numpy()[:, None, None]
    left = np.where(kept.numpy()[:, None], np.asarray(images.images[:]), grey)
    return ImageSet(left, images.labels, images.classes)
