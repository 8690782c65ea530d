"""How far a slim model's explanations moved from the original's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ...data import Batch, BatchSource, one_pass
from ...progress import SILENT, Progress
from ...training import to_device
from .heads import Head
from .rbf import rbf_map
from .selector import ExplainedClassifier

_CHUNK = 512


@dataclass(frozen=True)
class Drift:
    """Means over images: distance of centres and of sigmas (pixels), overlap of the maps (soft IoU, 0..1)."""

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
    """(N, ...) what the explainer says for the true labels, over one pass in eval mode; in pixels if RBF (N, 3).

    With ``stored`` only what steers, in the precision that its head keeps many of them in; all in float32 otherwise.
    """
    network.eval()
    head = network.selector.head
    device = next(network.parameters()).device

    def work(_: int, batch: Batch) -> Tensor:
        batch = to_device(batch, device)
        numbers = network(batch.images, batch.labels)[1]
        return (head.steers(numbers).to(head.stored) if stored else numbers.float()).cpu()

    return torch.cat(one_pass(batches, work, what="explanations", progress=progress))


def drift_between(original: Tensor, slim: Tensor, side: int) -> Drift:
    """Drift between two sets of RBF parameters (N, 3) for the same images; IoU = sum of minima / sum of maxima."""
    return _drift(original, slim, original, slim, lambda params: rbf_map(params, side))


def drift_of(head: Head, original: Tensor, slim: Tensor) -> Drift:
    """Drift between what ``head`` said twice (N, ...) of the same images; centre and sigma as ``Head.to_moments``."""
    before, after = (
        torch.cat([head.to_moments(part) for part in torch.split(numbers, _CHUNK)]) for numbers in (original, slim)
    )
    return _drift(original, slim, before, after, head.to_maps)


def _drift(original: Tensor, slim: Tensor, before: Tensor, after: Tensor, to_maps: Callable[[Tensor], Tensor]) -> Drift:
    """Of numbers (N, ...), their moments (N, 3) and the maps that they mean."""
    centres = (before[:, :2] - after[:, :2]).norm(dim=1).mean()
    sigmas = (before[:, 2] - after[:, 2]).abs().mean()
    overlaps = []
    for ours, theirs in zip(torch.split(slim, _CHUNK), torch.split(original, _CHUNK), strict=True):
        a, b = to_maps(ours).flatten(1), to_maps(theirs).flatten(1)
        overlaps.append(torch.minimum(a, b).sum(1) / torch.maximum(a, b).sum(1).clamp_min(1e-12))
    return Drift(float(centres), float(sigmas), float(torch.cat(overlaps).mean()), len(original))


@dataclass(frozen=True)
class Targets:
    """What ``head`` said that is to stay: ``numbers`` (N, ...) by image index; ``unit``: of their squared distance.

    ISP's distance is in squared pixels (of a 32-pixel side), the unit that g1 is given for. See ``Head.unit`` for
    what it is in other explainers.
    """

    head: Head
    numbers: Tensor
    unit: float

    def distance(self, found: Tensor, indices: Tensor) -> Tensor:
        """Mean over images of |C_x - f_sel(x; v)|^2 (ISP Eq. 10), for ``found`` (B, ...) of images ``indices``."""
        found = self.head.steers(found)
        return self.unit * squared_distance(found, self.numbers[indices.cpu()].to(found))


def squared_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of the squared distance between explanations (N, ...)."""
    return (found - wanted).square().flatten(1).sum(1).mean()


def to_targets(head: Head, numbers: Tensor) -> Targets:
    """Targets of an explainer whose ``Head.steers`` gave ``numbers`` for the images that gates see.

    Raises:
        PruningError: it says the same of all of them.
    """
    return Targets(head, numbers, head.unit(numbers))


def find_targets(network: ExplainedClassifier, batches: BatchSource, *, progress: Progress = SILENT) -> Targets:
    """Targets of the true labels, over one pass of images that are neither shuffled nor augmented."""
    return to_targets(network.selector.head, explanations(network, batches, stored=True, progress=progress))
