"""Amortized explainers behind the interface that all explainers share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from .base import Saliency
from .heads import Head, RbfHead, RealXHead
from .selector import ExplainedClassifier


class AmortizedExplainer:
    """Asks the selector that a classifier is joined with: one forward pass, in float32 and eval mode.

    Args:
        network: used as it is, not copied; asking puts it into eval mode.
    """

    head: ClassVar[type[Head]]

    def __init__(self, network: ExplainedClassifier) -> None:
        found = network.selector.head
        assert isinstance(found, self.head), f"{type(self).__name__} cannot speak for a {type(found).__name__}"
        self.network = network

    @property
    def name(self) -> str:
        """As recipes call it: ``rbf``, ``realx``."""
        return self.network.selector.head.kind

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1], for labels (N,) or the predicted classes.

        Raises:
            DataError: images or labels do not fit the classifier.
        """
        selector = self.network.selector
        _check_images(images, selector.side)
        _check_labels(labels, len(images), selector.filter.out_channels)
        device = selector.filter.weight.device
        self.network.eval()
        with torch.no_grad():
            _, numbers = self.network(images.to(device), None if labels is None else labels.to(device))
            return selector.head.to_saliency(numbers)


class RbfExplainer(AmortizedExplainer):
    """ISP's: ``parameters`` are (N, 3) row, column and sigma in pixels, ``maps`` the radial basis masks they mean."""

    head = RbfHead


class RealXExplainer(AmortizedExplainer):
    """REAL-X: ``maps`` are the probabilities with which each pixel is kept."""

    head = RealXHead


def _check_images(images: Tensor, side: int) -> None:
    wanted = f"images are (N, 3, {side}, {side}) in [0, 1], as the explainer was trained"
    if images.dim() != 4 or images.shape[1:] != (3, side, side) or not images.is_floating_point():
        raise DataError(f"a tensor {tuple(images.shape)} of {images.dtype} was given; {wanted}: resize and convert")
    off = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
    if bool(off.any()):
        first = int(off.nonzero()[0])
        low, high = float(images[first].min()), float(images[first].max())
        raise DataError(
            f"image {first} has values from {low:.3g} to {high:.3g}; {wanted}: divide bytes by 255, do not normalise"
        )


def _check_labels(labels: Tensor | None, count: int, classes: int) -> None:
    if labels is None:
        return
    if labels.shape != (count,):
        raise DataError(f"{count} images came with labels of shape {tuple(labels.shape)}; give one label per image")
    off = (labels < 0) | (labels >= classes)
    if bool(off.any()):
        first = int(off.nonzero()[0])
        raise DataError(f"label {int(labels[first])} of image {first} is no class; allowed: 0 to {classes - 1}")
