"""Bounding box score: share of the most salient pixels that lie on the object (Schulz et al. 2020, DRIB)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate
from .ranking import to_ranks


@dataclass(frozen=True)
class BoxScore:
    """Share of the n most salient pixels in a box of n pixels, 0..1; ``chance``: that of random maps."""

    score: Estimate
    chance: Estimate

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"score": self.score.to_dict(), "chance": self.chance.to_dict()}


def box_score(maps: Tensor, boxes: Tensor, *, seed: int = 0) -> BoxScore:
    """Score maps (N, H, W) against boxes (N, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

    Ties are broken by ``seed``. A box that covers its image scores 1 for any map.
    """
    height, width = maps.shape[1:]
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes.unbind(1))
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    sizes = inside.flatten(1).sum(1)
    assert bool((sizes > 0).all()), "boxes hold at least one pixel of their image"
    top = to_ranks(maps, seed=seed) >= (height * width - sizes)[:, None, None]
    hits = (top & inside).flatten(1).sum(1)
    return BoxScore(Estimate.of(hits / sizes), Estimate.of(sizes / (height * width)))
