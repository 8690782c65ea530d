"""The classifier as the tests run it, thousands of forward passes an explainer: the same function, in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...models import Classifier
from ...models.fold import find_fold_pairs, fold_
from ...progress import SILENT, Progress
from .ranking import device_of

AGREES = 1e-9
"""Relative difference of logits in float64 up to which a folded network is the same function."""


@torch.no_grad()
def to_fast(classifier: Classifier, images: Tensor) -> Classifier:
    """A copy in eval mode with normalisations folded into the convolutions before them, channels last.

    Where folding changes the logits of ``images`` (a few, (N, 3, H, W) in [0, 1]) in float64, because something else
    reads what a convolution puts out, nothing is folded. Channels last also where nothing is: on a CPU and a
    ResNet-20 of 32 pixels the two together take 0.6 of the time.
    """
    model = copy.deepcopy(classifier).eval()
    exact, inputs = copy.deepcopy(model).double(), images.double()
    expected = exact(inputs)
    pairs = find_fold_pairs(exact, lambda: exact(inputs))
    fold_(exact, pairs)
    if float((exact(inputs) - expected).abs().max()) <= AGREES * float(expected.abs().max()):
        fold_(model, pairs)
    return model.to(memory_format=torch.channels_last)


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
