"""Tests that remove pixels in the order of a map: pixel perturbation, insertion and deletion, tile degradation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ...models import Classifier
from ...models.fold import to_fast
from ...progress import SILENT, Progress
from .estimate import Curve, Estimate
from .ranking import device_of, to_ranks

BATCH = 64
"""Images of one forward pass: the activations of 128 at 32 pixels no longer fit in a core's cache."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the pixels removed by pixel perturbation."""

STEPS = 113
"""Steps of insertion and deletion: 9 pixels each at 32 x 32 (DRIB), more pixels each for larger images."""

SIDES = (8, 14)
"""Sides of tiles, in pixels (Schulz et al. 2020, DRIB)."""

_PROBED = 2
"""Images on which the folded network is compared."""

Window = tuple[int, int]
"""Keep the pixels whose rank r has low <= r < high."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""(n, classes) log-probabilities of the images, and of the perturbed images -> (n, K) figures per image."""


def keep_pixels(images: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] whose pixels outside ``kept`` (N, H, W) are ``mean`` (1, 3, 1, 1).

    The classifier's own normalisation turns ``mean`` into zero: the same as a mask after normalisation.
    """
    return torch.where(kept.unsqueeze(1), images, mean)


@torch.no_grad()
def measure_windows(
    classifier: Classifier,
    images: Tensor,
    ranks: Tensor,
    windows: Sequence[Window],
    measure: Measure,
    *,
    what: str,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> Tensor:
    """``measure`` of every image with every window of ranks kept: (N, windows, K), on the CPU.

    Args:
        images: (N, 3, H, W) in [0, 1].
        ranks: (N, H, W) as ``to_ranks`` gives them (or of tiles, spread over their pixels).
    """
    device, mean = device_of(classifier), classifier.normalize.mean
    model = to_fast(classifier, images[:_PROBED].to(device))
    top = int(ranks.max()) + 1
    grey = model(mean.expand(1, *images.shape[1:])).float().log_softmax(1)
    figures = []
    starts = range(0, len(images), batch_size)
    for start in progress.track(starts, what, total=len(starts)):
        part, order = images[start : start + batch_size].to(device), ranks[start : start + batch_size].to(device)
        part = part.contiguous(memory_format=torch.channels_last)
        original = model(part).float().log_softmax(1)
        by_window = []
        for low, high in windows:
            if low <= 0 and high >= top:
                perturbed = original
            elif low >= high:
                perturbed = grey.expand_as(original)  # every pixel is removed
            else:
                kept = (order >= low) & (order < high)
                perturbed = model(keep_pixels(part, kept, mean)).float().log_softmax(1)
            by_window.append(measure(original, perturbed).cpu())
        figures.append(torch.stack(by_window, 1))
    return torch.cat(figures)


def predicted_probability(original: Tensor, perturbed: Tensor) -> Tensor:
    """(n, 1) probability of the class that is predicted for the original image."""
    return perturbed.gather(1, original.argmax(1, keepdim=True)).exp()


@dataclass(frozen=True)
class Perturbation:
    """Change of the prediction over the share of pixels removed, the least salient first; lower is better.

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
    figures = measure_windows(
        classifier,
        images,
        ranks,
        windows,
        _kl_and_change,
        what="perturbation",
        batch_size=batch_size,
        progress=progress,
    )
    return Perturbation(Curve.of(shares, figures[:, :, 0]), Curve.of(shares, figures[:, :, 1]))


def _kl_and_change(original: Tensor, perturbed: Tensor) -> Tensor:
    kl = (original.exp() * (original - perturbed)).sum(1)
    top = original.argmax(1, keepdim=True)
    change = (perturbed.gather(1, top) - original.gather(1, top)).expm1().abs()  # |p' - p| / p
    return torch.stack([kl, change[:, 0]], 1)


@dataclass(frozen=True)
class InsertionDeletion:
    """Probability of the class predicted for the original image, over the share of pixels shown or removed.

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
    """Insert the most salient pixels into a mean-grey image, or delete them from the image, in ``steps`` equal steps.

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
    figures = measure_windows(
        classifier,
        images,
        ranks,
        windows,
        predicted_probability,
        what="insertion, deletion",
        batch_size=batch_size,
        progress=progress,
    )[:, :, 0]
    shares = [count / pixels for count in counts]
    return InsertionDeletion(Curve.of(shares, figures[:, : len(counts)]), Curve.of(shares, figures[:, len(counts) :]))


@dataclass(frozen=True)
class TileDegradation:
    """Probability of the class predicted for the original image, over the share of tiles removed.

    ``morf`` removes the most relevant tiles first, ``lerf`` the least relevant. The area between them, that under
    their ``difference``, is the score: the larger, the better; a random order gives 0.
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
        DataError: the images have fewer than two tiles.
    """
    height, width = maps.shape[1:]
    index, count = tile_index(height, width, tile)
    if count < 2 or min(height, width) < tile:
        raise DataError(
            f"images of {width} x {height} pixels are too small for tiles of {tile} x {tile}: each side needs {tile} "
            "pixels and one of them more; leave tiles out of --tests"
        )
    ranks = to_ranks(_tile_means(maps, index, count), seed=seed)[:, index]  # (N, H, W)
    windows = [(0, count - removed) for removed in range(count + 1)]
    windows += [(removed, count) for removed in range(count + 1)]
    figures = measure_windows(
        classifier,
        images,
        ranks,
        windows,
        predicted_probability,
        what=f"tiles of {tile}",
        batch_size=batch_size,
        progress=progress,
    )[:, :, 0]
    shares = [removed / count for removed in range(count + 1)]
    morf, lerf = figures[:, : count + 1], figures[:, count + 1 :]
    return TileDegradation(tile, *(Curve.of(shares, values) for values in (morf, lerf, lerf - morf)))


def tile_index(height: int, width: int, tile: int) -> tuple[Tensor, int]:
    """(H, W) tile number of each pixel, row by row, and the number of tiles."""
    rows, columns = torch.arange(height) // tile, torch.arange(width) // tile
    across = -(-width // tile)
    return rows[:, None] * across + columns[None, :], -(-height // tile) * across


def _tile_means(maps: Tensor, index: Tensor, count: int) -> Tensor:
    """(N, tiles) means of maps over tiles, in float64: equal pixels must give equal means, whatever the tile's size."""
    flat, tiles = maps.double().flatten(1), index.flatten()
    sums = torch.zeros(len(maps), count, dtype=torch.float64).index_add_(1, tiles, flat)
    return sums / torch.bincount(tiles, minlength=count)
