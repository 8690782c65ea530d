"""ROAR, remove and retrain (Hooker et al. 2019): accuracy of a classifier trained without the most salient pixels."""

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
"""Trains an untrained classifier on images, in place; the same recipe for every explainer."""


@dataclass(frozen=True)
class RoarPoint:
    """Test accuracy (0..1) of a classifier trained and tested without the most salient ``share`` of every image."""

    share: float
    accuracy: Estimate


@dataclass(frozen=True)
class Roar:
    """One explainer's points, one training each; the further below those of random maps, the better."""

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
    """Remove the most salient pixels of training and test images, train from scratch, and test.

    Standard errors are over test images and exclude the variance between training seeds. The shape of the removed
    region itself may inform the new classifier: its outline stays visible in mean grey.

    Args:
        build: makes an untrained classifier; called for every share, with the same random numbers.
        train_maps, test_maps: (N, H, W) maps of ``train`` and ``test``. They must explain PREDICTED classes: maps of
            true labels would leak the label to the new classifier.
        shares: of the pixels of an image, each 0..1; 0 removes nothing.
    """
    points = []
    for share in shares:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build()
            mean = model.normalize.mean.flatten()
            learn(model, without_top(train, train_maps, share, mean, seed=seed))
            remaining = without_top(test, test_maps, share, mean, seed=seed)
        logits = logits_of(model, Batches(remaining, min(_EVALUATION_BATCH, len(remaining))))
        hits = (logits.argmax(1) == torch.from_numpy(test.labels)).double()
        points.append(RoarPoint(share, Estimate.of(hits)))
    return Roar(tuple(points), seed)


def without_top(images: ImageSet, maps: Tensor, share: float, mean: Tensor, *, seed: int = 0) -> ImageSet:
    """The images with the most salient ``share`` of their pixels set to mean grey, ``mean`` (3,) in [0, 1].

    Stored as bytes: grey is off by half a level at most. Ties are broken by ``seed``.
    """
    assert len(images) == len(maps), "one map per image"
    count = maps[0].numel()
    kept = to_ranks(maps, seed=seed) < count - round(share * count)
    grey = (mean.cpu() * 255).round().to(torch.uint8).numpy()[:, None, None]
    pixels = np.where(kept.numpy()[:, None], np.asarray(images.images[:]), grey)
    return ImageSet(pixels, images.labels, images.classes)
