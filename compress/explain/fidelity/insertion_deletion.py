"""Insertion and deletion (RISE, Petsiuk et al. 2018): the predicted class as the most salient pixels come or go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import DataError
from ...models import Classifier
from ...progress import SILENT, Progress
from .estimate import Curve
from .ranking import to_ranks
from .removal import BATCH, answers, of_predicted

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
