"""Pixel perturbation: how little changes when the least salient pixels go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ...models import Classifier
from ...progress import SILENT, Progress
from .estimate import Curve, Estimate
from .ranking import to_ranks
from .removal import BATCH, answers, of_predicted

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


STEPS = 113
"""9 pixels a step at 32 x 32 (DRIB); the same number of steps, of more pixels, for larger images."""


@dataclass(frozen=True)
class InsertionDeletion:
    """Probability of the class predicted for the whole image, over the share of pixels shown or removed.

    A good explanation has a large area under ``insertion`` and a small one under ``deletion``.
    """

    insertion: Curve
    deletion: Curve

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"insertion": self.insertion.to_dict(), "deletion": self.deletion.to_dict()}


def insertion_deletion(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    *,
    steps: int = STEPS,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> InsertionDeletion:
    """Show the most salient pixels of a mean-grey image, or remove them from the image, in ``steps`` equal steps.

    Args:
        images: (N, 3, H, W) in [0, 1]; maps (N, H, W) to rank pixels by, ties broken by ``seed``.

    Raises:
        DataError: an image has fewer pixels than there are steps.
    """
    pixels = maps[0].numel()
    if pixels < steps:
        raise DataError(
            f"images of {maps.shape[2]} x {maps.shape[1]} pixels are too small for insertion and deletion in {steps} "
            f"steps: at least {steps} pixels are needed; leave insertion_deletion out of --tests"
        )
    counts = [round(step * pixels / steps) for step in range(steps + 1)]
    windows = [(pixels - count, pixels) for count in counts] + [(0, pixels - count) for count in counts]
    ranks = to_ranks(maps, seed=seed)
    found = answers(
        classifier,
        images,
        ranks,
        windows,
        of_predicted,
        what="insertion, deletion",
        batch_size=batch_size,
        progress=progress,
    )[:, :, 0]
    shares = [count / pixels for count in counts]
    return InsertionDeletion(Curve.of(shares, found[:, : len(counts)]), Curve.of(shares, found[:, len(counts) :]))


SIDES = (8, 14)
"""Tiles of 8 x 8 and of 14 x 14 pixels (Schulz et al. 2020, DRIB)."""


@dataclass(frozen=True)
class TileDegradation:
    """Probability of the class predicted for the whole image, over the share of tiles removed.

    ``morf`` removes the most relevant tiles first, ``lerf`` the least relevant. The area between them, that of their
    ``difference``, is the score: the larger, the better; a random order gives 0.
    """

    tile: int
    morf: Curve
    lerf: Curve
    difference: Curve

    @property
    def between(self) -> Estimate:
        """Area under ``lerf`` less that under ``morf``."""
        return self.difference.area

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "tile": self.tile,
            "morf": self.morf.to_dict(),
            "lerf": self.lerf.to_dict(),
            "between": self.between.to_dict(),
        }


def tile_degradation(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    *,
    tile: int,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> TileDegradation:
    """Remove tiles of ``tile`` x ``tile`` pixels one by one; a tile's relevance is the mean of its saliency.

    The mean, not the sum: where the side is no multiple of ``tile`` the last tiles are cut and hold fewer pixels.

    Args:
        images: (N, 3, H, W) in [0, 1]; maps (N, H, W) to rank pixels by, ties broken by ``seed``.

    Raises:
        DataError: the images have no two tiles.
    """
    height, width = maps.shape[1:]
    index, count = tile_index(height, width, tile)
    if count < 2 or min(height, width) < tile:
        raise DataError(
            f"images of {width} x {height} pixels are too small for tiles of {tile} x {tile}: each side needs {tile} "
            "pixels and one of them more; leave tiles out of --tests"
        )
    ranks = to_ranks(_means(maps, index, count), seed=seed)[:, index]  # (N, H, W)
    windows = [(0, count - removed) for removed in range(count + 1)]
    windows += [(removed, count) for removed in range(count + 1)]
    found = answers(
        classifier,
        images,
        ranks,
        windows,
        of_predicted,
        what=f"tiles of {tile}",
        batch_size=batch_size,
        progress=progress,
    )[:, :, 0]
    shares = [removed / count for removed in range(count + 1)]
    morf, lerf = found[:, : count + 1], found[:, count + 1 :]
    return TileDegradation(tile, *(Curve.of(shares, values) for values in (morf, lerf, lerf - morf)))


def tile_index(height: int, width: int, tile: int) -> tuple[Tensor, int]:
    """(H, W) the number of each pixel's tile, row by row, and how many tiles there are."""
    rows, columns = torch.arange(height) // tile, torch.arange(width) // tile
    across = -(-width // tile)
    return rows[:, None] * across + columns[None, :], -(-height // tile) * across


def _means(maps: Tensor, index: Tensor, count: int) -> Tensor:
    """(N, tiles) means of maps over tiles, in float64: equal pixels must give equal means, whatever the tile's size."""
    flat, where = maps.double().flatten(1), index.flatten()
    sums = torch.zeros(len(maps), count, dtype=torch.float64).index_add_(1, where, flat)
    return sums / torch.bincount(where, minlength=count)
