"""C_x: what the unpruned network's explainer says of every image that gates see, and how far another one is from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..data import BatchSource
from ..progress import SILENT, Progress
from .drift import explanations
from .heads import Head
from .selector import ExplainedClassifier


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
