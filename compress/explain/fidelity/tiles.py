"""Tile degradation: the area between the curves of removing the least and the most relevant tiles first."""

from __future__ import annotations

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
