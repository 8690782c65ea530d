"""What a classifier answers when a part of an image is removed: set to zero after normalisation, mean grey."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...models import Classifier
from ...progress import SILENT, Progress
from .forward import to_fast
from .ranking import device_of

BATCH = 64
"""Images of one forward pass: the activations of 128 at 32 pixels no longer fit in a core's cache."""

Window = tuple[int, int]
"""Keep the pixels whose rank r has low <= r < high."""

_COMPARED = 2

Measure = Callable[[Tensor, Tensor], Tensor]
"""(n, classes) log-probabilities of the images, and of what is left of them -> (n, K) figures per image."""


def keep_only(images: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] whose pixels outside ``kept`` (N, H, W) are ``mean`` (1, 3, 1, 1).

    The classifier's own normalisation turns ``mean`` into zero: the same as a mask after normalisation.
    """
    return torch.where(kept.unsqueeze(1), images, mean)


@torch.no_grad()
def answers(
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
    """``measure`` of every image through every window: (N, windows, K), on the CPU.

    Args:
        images: (N, 3, H, W) in [0, 1].
        ranks: (N, H, W) as ``to_ranks`` gives them (or of tiles, spread over their pixels).
    """
    device, mean = device_of(classifier), classifier.normalize.mean
    model = to_fast(classifier, images[:_COMPARED].to(device))
    top = int(ranks.max()) + 1
    grey = model(mean.expand(1, *images.shape[1:])).float().log_softmax(1)
    found = []
    starts = range(0, len(images), batch_size)
    for start in progress.track(starts, what, total=len(starts)):
        part, order = images[start : start + batch_size].to(device), ranks[start : start + batch_size].to(device)
        part = part.contiguous(memory_format=torch.channels_last)
        whole = model(part).float().log_softmax(1)
        rows = []
        for low, high in windows:
            if low <= 0 and high >= top:
                now = whole
            elif low >= high:
                now = grey.expand_as(whole)  # nothing is left of any image
            else:
                kept = (order >= low) & (order < high)
                now = model(keep_only(part, kept, mean)).float().log_softmax(1)
            rows.append(measure(whole, now).cpu())
        found.append(torch.stack(rows, 1))
    return torch.cat(found)


def of_predicted(whole: Tensor, now: Tensor) -> Tensor:
    """(n, 1) probability of the class that is predicted for the whole image."""
    return now.gather(1, whole.argmax(1, keepdim=True)).exp()
