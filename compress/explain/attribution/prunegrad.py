"""PruneGrad and PrunePGD: gradients of the network after an image's unimportant neurons are closed.

Source: Khakzar et al., "Improving feature attribution through input-specific network pruning", 2019
(arXiv:1911.11081). Where the paper is open, our choices:

- The score and the gradients are of the explained class's logit; the output change is of its softmax probability.
- Neurons are ranked over all layers at once, separately for each image. A step closes the next percent of all
  neurons of the network (rounded down), silent ones first. The search ends at the first step whose change exceeds the
  limit, though a later one might be within it again; the step before it is taken.
- Closed neurons stay closed, whatever the image becomes; the others are recomputed.
- PGD ascends the logit, from the image itself, by steps along the gradient scaled to length 1. Lengths are L2 norms
  over all pixels and channels of one image, in raw units (pixels in [0, 1], before normalisation). The pixels may
  leave [0, 1]: clipping would suppress black and white ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ...progress import SILENT, Progress
from ..base import CheckedExplainer, eval_with_gradients, signed_max_abs, to_inputs
from .neurons import STEPS, Neurons, class_values, pruned_logits

LIMIT = 0.15
"""Largest output change |p' - p| / p up to which neurons are closed."""

LAST_STEP = STEPS - 1
"""The last step: one percent of the neurons stays open, however little the output changes."""

_PIXELS = 128 * 32 * 32
"""Pixels of the images processed at once: bounds memory, as neurons grow with pixels."""

_ROWS = 8
"""Pruned networks evaluated at once. While fewer images are searching, several steps of each are evaluated ahead."""


class Pruning(NamedTuple):
    """Pruned networks, one per image of a batch.

    Args:
        closed: per activation (N, C, h, w), True where closed.
        percent: (N,) share of all neurons that was closed.
        change: (N,) |p' - p| / p of the explained class's probability.
    """

    closed: list[Tensor]
    percent: Tensor
    change: Tensor


class PruneGrad(CheckedExplainer):
    """d f_y / dX of the pruned network; a pixel's value is that of the channel of largest magnitude, with its sign.

    Args:
        classifier: raw images (N, 3, H, W) in [0, 1] -> logits (N, classes).
        limit: largest output change |p' - p| / p, per image.
        percent: close this share of the neurons of every image instead of searching (see ``calibrate_percent``): one
            forward pass instead of tens.

    Raises:
        ConfigError: ``limit`` or ``percent`` out of range.
        ModelError: by ``explain``, for a network without spatial activations.
    """

    name = "prunegrad"
    signed = True

    def __init__(self, classifier: nn.Module, *, limit: float = LIMIT, percent: float | None = None) -> None:
        super().__init__(classifier)
        if not limit >= 0:
            raise ConfigError(f"limit {limit}: the largest output change is 0 or more, like {LIMIT}")
        if percent is not None and not 0 <= percent < 100:
            raise ConfigError(f"percent {percent}: the share of neurons to close is from 0 to below 100")
        self.limit = limit
        self.percent = percent

    def prune(self, images: Tensor, labels: Tensor | None = None) -> Pruning:
        """The pruned networks of ``images`` (N, 3, H, W), the basis of ``explain``. Raises as ``explain``."""
        with eval_with_gradients(self.classifier):
            images, labels = to_inputs(self.classifier, images, labels)
            return self._prune(images, labels)

    def _prune(self, images: Tensor, labels: Tensor) -> Pruning:
        neurons = Neurons(self.classifier, images, labels)
        rows = torch.arange(len(images), device=images.device)
        if self.percent is None:
            steps, change = search_steps(neurons, self.limit)
            counts = neurons.count(steps)
        else:
            counts = torch.full_like(rows, int(self.percent * len(neurons) / 100))
            change = neurons.change(counts, rows)
        return Pruning(neurons.closed(counts), 100.0 * counts / len(neurons), change)

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        size = max(1, _PIXELS // images[0, 0].numel())
        maps = []
        for part, classes in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            maps.append(signed_max_abs(self._attribute(part, classes, self._prune(part, classes).closed)))
        return torch.cat(maps)

    def _attribute(self, images: Tensor, labels: Tensor, closed: list[Tensor]) -> Tensor:
        """(N, 3, H, W) gradient of the pruned network's logit."""
        images = images.detach().requires_grad_()
        logit = class_values(pruned_logits(self.classifier, images, closed), labels)
        (gradient,) = torch.autograd.grad(logit.sum(), images)
        return gradient


class PrunePGD(PruneGrad):
    """Perturbation that raises the pruned network's logit f_y, by projected gradient ascent.

    From 0, repeat: delta += size * g / |g|_2, then back into the ball |delta|_2 <= radius. A pixel's value is that of
    its channel of largest magnitude, with its sign, in raw units.

    Args:
        classifier, limit, percent: as of ``PruneGrad``.
        steps: of ascent.
        size: length of a step, L2 over one image, pixels in [0, 1].
        radius: of the ball around the image, in the same units.
    """

    name = "prunepgd"

    def __init__(
        self,
        classifier: nn.Module,
        *,
        limit: float = LIMIT,
        percent: float | None = None,
        steps: int = 20,
        size: float = 0.01,
        radius: float = 0.1,
    ) -> None:
        super().__init__(classifier, limit=limit, percent=percent)
        if steps < 1 or not size > 0 or not radius > 0:
            raise ConfigError(f"steps {steps}, size {size}, radius {radius}: all are more than 0")
        self.steps = steps
        self.size = size
        self.radius = radius

    def perturbation(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) delta, before channels are reduced. Raises as ``explain``."""
        with eval_with_gradients(self.classifier):
            images, labels = to_inputs(self.classifier, images, labels)
            return self._attribute(images, labels, self._prune(images, labels).closed)

    def _attribute(self, images: Tensor, labels: Tensor, closed: list[Tensor]) -> Tensor:
        delta = torch.zeros_like(images)
        for _ in range(self.steps):
            gradient = super()._attribute(images + delta, labels, closed)
            delta = delta + self.size * gradient / _image_norm(gradient)
            delta = delta * (self.radius / _image_norm(delta)).clamp(max=1)
        return delta


def search_steps(neurons: Neurons, limit: float) -> tuple[Tensor, Tensor]:
    """The last step of each image before its output changes by more than ``limit``, and that change: (N,), (N,)."""
    steps = neurons.silent_steps().clamp(max=LAST_STEP)
    change = torch.zeros_like(neurons.probability)
    searching = (steps < LAST_STEP).nonzero().flatten()
    while len(searching):
        ahead = max(1, _ROWS // len(searching))
        trials = steps[searching, None] + torch.arange(1, ahead + 1, device=steps.device)
        rows = searching[:, None].expand_as(trials)
        tried = neurons.change(neurons.count(trials.flatten()), rows.flatten()).view_as(trials)
        within = ((tried <= limit) & (trials <= LAST_STEP)).cumprod(1)
        passed = within.sum(1)
        steps[searching] += passed
        last = tried.gather(1, (passed - 1).clamp(min=0)[:, None]).squeeze(1)
        change[searching] = torch.where(passed > 0, last, change[searching])
        searching = searching[(passed == ahead) & (steps[searching] < LAST_STEP)]
    return steps, change


def calibrate_percent(
    classifier: nn.Module, batches: Iterable[Tensor], *, limit: float = LIMIT, progress: Progress = SILENT
) -> int:
    """Share of neurons (percent) to close in all images: the last step before the MEAN change exceeds ``limit``.

    Predicted classes are explained. Costs up to 99 forward passes per image, once.

    Args:
        batches: validation images (N, 3, H, W) in [0, 1].

    Raises:
        DataError: no images, or images that do not fit the classifier.
        ModelError: a network without spatial activations.
    """
    total, count = torch.zeros(STEPS, dtype=torch.float64), 0
    with eval_with_gradients(classifier):
        for batch in progress.track(batches, "calibrate pruning", unit="batch"):
            images, labels = to_inputs(classifier, batch, None)
            size = max(1, _PIXELS // images[0, 0].numel())
            for part, classes in zip(torch.split(images, size), torch.split(labels, size), strict=True):
                total += _changes_by_step(Neurons(classifier, part, classes)).double().sum(0).cpu()
            count += len(images)
    if not count:
        raise DataError("no images to calibrate the share of closed neurons on: give validation images")
    beyond = (total > limit * count).nonzero()
    return int(beyond[0]) - 1 if len(beyond) else LAST_STEP


def _changes_by_step(neurons: Neurons) -> Tensor:
    """(N, STEPS) the output change after 0, 1, ..., 99 steps."""
    changes = neurons.probability.new_zeros(len(neurons.images), STEPS)
    silent = neurons.silent_steps()
    for step in range(1, STEPS):
        rows = (silent < step).nonzero().flatten()
        if len(rows):
            changes[rows, step] = neurons.change(neurons.count(torch.full_like(rows, step)), rows)
    return changes


def _image_norm(values: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, 1, 1) L2 norm of each image; never 0, so that a zero gradient stays one."""
    length: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)
    return length.clamp_min(torch.finfo(values.dtype).tiny)
