"""What every explainer keeps to: images in, one saliency map per image out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Saliency:
    """Explanations of a batch of images; where a map is higher, the classifier's evidence is.

    Maps of one explainer compare with each other; scales differ between explainers: compare ranks, or normalise.

    Args:
        maps: (N, H, W) float, as large as the images.
        parameters: (N, P) what an amortized explainer says in few numbers (``rbf``: centre row, centre column and
            sigma in pixels), where it has such a form.
        uncertainty: (N, H, W) standard deviation of the maps, in their units, where the explainer knows it.
        signed: the sign of a map is a direction (brighter or darker pixels speak for the class), not a rank:
            see ``importance``.
    """

    maps: Tensor
    parameters: Tensor | None = None
    uncertainty: Tensor | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        assert self.maps.dim() == 3, f"maps are (N, H, W), not {tuple(self.maps.shape)}"
        assert self.parameters is None or len(self.parameters) == len(self.maps)
        assert self.uncertainty is None or self.uncertainty.shape == self.maps.shape

    @property
    def importance(self) -> Tensor:
        """(N, H, W) what to rank pixels by: the maps, or their magnitudes where they are signed."""
        return self.maps.abs() if self.signed else self.maps


class Explainer(Protocol):
    """Explains a classifier that it was made with; deterministic, in eval mode, leaves no gradients behind."""

    @property
    def name(self) -> str:
        """As recipes and commands call it: ``rbf``, ``realx``, ``varsal``, ``prunegrad``, ``grad_cam``, ..."""

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1].

        Args:
            labels: (N,) the class to explain, per image; the predicted one if not given.

        Raises:
            ModelError: the classifier has not what this explainer needs.
            DataError: images or labels do not fit the classifier; the sentence names the first that does not.
        """
