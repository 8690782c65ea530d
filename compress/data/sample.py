"""Some of an image set: how many, or a share of every class."""

from __future__ import annotations

import numpy as np

from .images import ImageSet
from .partition import of_each_class


def count_of(wanted: int | float | None, total: int) -> int:
    """Of ``total`` images, how many a number (int) or a share (float below 1) of them is; None: all."""
    if wanted is None:
        return total
    return min(round(wanted * total) if isinstance(wanted, float) else wanted, total)


def sample_of(images: ImageSet, wanted: int | float | None, *, seed: int) -> ImageSet:
    """That many images, or that share of every class, in their order, drawn by ``seed``; None: all of them."""
    if wanted is None or wanted >= len(images):
        return images
    if isinstance(wanted, float):
        return images.subset(of_each_class(images.labels, wanted, seed=seed))
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(np.sort(order[:wanted]))
