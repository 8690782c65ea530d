"""Explanations of many images: stored as targets of steering, and compared between original and slim model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...data import Batch, BatchSource, one_pass
from ...progress import SILENT, Progress
from ...training import to_device
from ..fidelity.estimate import Estimate
from .heads import Head
from .rbf import rbf_map
from .selector import ExplainedClassifier

_CHUNK = 512


@dataclass(frozen=True)
class Drift:
    """Drift of explanations, means over images: distance of centres and sigmas (pixels), soft IoU of maps (0..1)."""

    center_drift_px: float
    sigma_drift_px: float
    iou: float
    images: int

    def to_dict(self) -> dict[str, float | int]:
        """JSON form."""
        return asdict(self)


@torch.inference_mode()
def explanations(
    network: ExplainedClassifier, batches: BatchSource, *, stored: bool = False, progress: Progress = SILENT
) -> Tensor:
    """(N, ...) explanations of the true labels, over one pass in eval mode; RBF parameters (N, 3) are in pixels.

    Args:
        stored: only the part that steers, in the head's ``storage_dtype``; all numbers in float32 otherwise.
    """
    network.eval()
    head = network.selector.head
    device = next(network.parameters()).device

    def work(_: int, batch: Batch) -> Tensor:
        batch = to_device(batch, device)
        numbers = network(batch.images, batch.labels)[1]
        return (head.steered_part(numbers).to(head.storage_dtype) if stored else numbers.float()).cpu()

    return torch.cat(one_pass(batches, work, what="explanations", progress=progress))


def rbf_drift(original: Tensor, slim: Tensor, side: int) -> Drift:
    """Drift between two sets of RBF parameters (N, 3) for the same images; IoU = sum of minima / sum of maxima."""
    return _moments_drift(original, slim, original, slim, lambda params: rbf_map(params, side))


def head_drift(head: Head, original: Tensor, slim: Tensor) -> Drift:
    """Drift between two sets of ``head``'s numbers (N, ...) for the same images, by its moments and maps."""
    before, after = (
        torch.cat([head.to_moments(chunk) for chunk in torch.split(numbers, _CHUNK)]) for numbers in (original, slim)
    )
    return _moments_drift(original, slim, before, after, head.to_maps)


@dataclass(frozen=True)
class DriftChance:
    """Drift beside its chance level: the same figures of explanations that know nothing of their image.

    Attributes:
        constant: the mean explanation in place of every image's own.
        other: the explanation of an image of another class (unless one class has half of the images).
        share: (1 - IoU) / (1 - mean IoU of ``constant``), per image: 0 where nothing moved, 1 where the slim model's
            explanation is no nearer to the original's than the mean one.
        r2: share of the variance of the original's explanations (their part that steers) that the slim model's have:
            1 where they are the same, 0 for the mean explanation, negative beyond; None where they do not vary.
    """

    constant: Drift
    other: Drift
    share: Estimate
    r2: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def drift_chance(head: Head, original: Tensor, slim: Tensor, labels: Tensor) -> DriftChance:
    """The chance level of the drift between two sets of ``head``'s numbers (N, ...), N at least 2, classes (N,)."""
    mean = original.double().mean(0, keepdim=True).to(original.dtype).expand_as(original)
    constant = head_drift(head, original, mean)
    order = torch.argsort(labels.cpu(), stable=True)
    other = torch.empty_like(order)
    other[order] = order.roll(len(order) // 2)
    room = 1 - constant.iou
    apart = 1 - torch.cat(
        [
            _overlap(head.to_maps(ours), head.to_maps(theirs))
            for ours, theirs in zip(torch.split(slim, _CHUNK), torch.split(original, _CHUNK), strict=True)
        ]
    )
    shares = apart / room if room > 0 else torch.full_like(apart, torch.nan)
    left = squared_distance(*(head.steered_part(numbers).double() for numbers in (slim, original)))
    varies = squared_distance(*(head.steered_part(numbers).double() for numbers in (mean, original)))
    return DriftChance(
        constant,
        head_drift(head, original, original[other]),
        Estimate.of(shares),
        float(1 - left / varies) if varies > 0 else None,
    )


def _moments_drift(
    original: Tensor, slim: Tensor, before: Tensor, after: Tensor, to_maps: Callable[[Tensor], Tensor]
) -> Drift:
    """Drift between numbers (N, ...), given their moments (N, 3) and the function that makes maps of them."""
    centres = (before[:, :2] - after[:, :2]).norm(dim=1).mean()
    sigmas = (before[:, 2] - after[:, 2]).abs().mean()
    overlaps = [
        _overlap(to_maps(ours), to_maps(theirs))
        for ours, theirs in zip(torch.split(slim, _CHUNK), torch.split(original, _CHUNK), strict=True)
    ]
    return Drift(float(centres), float(sigmas), float(torch.cat(overlaps).mean()), len(original))


def _overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """(N,) soft IoU of maps (N, 1, H, W): sum of minima / sum of maxima."""
    a, b = ours.flatten(1), theirs.flatten(1)
    return torch.minimum(a, b).sum(1) / torch.maximum(a, b).sum(1).clamp_min(1e-12)


@dataclass(frozen=True)
class Targets:
    """Explanations of the original model that steering keeps: ``numbers`` (N, ...) by image index.

    ``unit`` scales their squared distance: ISP's g1 is given for squared pixels of a 32-pixel side; ``Head.unit`` is
    the equivalent for other explainers.
    """

    head: Head
    numbers: Tensor
    unit: float

    def distance(self, numbers: Tensor, indices: Tensor) -> Tensor:
        """Mean over images of |C_x - f_sel(x; v)|^2 (ISP Eq. 10), for ``numbers`` (B, ...) of images ``indices``."""
        steered = self.head.steered_part(numbers)
        return self.unit * squared_distance(steered, self.numbers[indices.cpu()].to(steered))


def squared_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean over images of the squared distance between explanations (N, ...)."""
    return (ours - theirs).square().flatten(1).sum(1).mean()


def to_targets(head: Head, numbers: Tensor) -> Targets:
    """Targets of ``numbers`` (N, ...), the ``Head.steered_part`` of the images that gates learn on.

    Raises:
        ExplainerRefused: they are the same for all images.
    """
    return Targets(head, numbers, head.unit(numbers))


def find_targets(network: ExplainedClassifier, batches: BatchSource, *, progress: Progress = SILENT) -> Targets:
    """Explain the true labels over one pass of images, neither shuffled nor augmented, and make targets of them."""
    return to_targets(network.selector.head, explanations(network, batches, stored=True, progress=progress))
