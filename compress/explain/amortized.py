"""Amortized explainers behind the interface that all explainers share."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Saliency
from .checked import check_images, check_labels
from .rbf import rbf_map
from .selector import ExplainedClassifier


class RbfExplainer:
    """ISP's: ``parameters`` are (N, 3) row, column and sigma in pixels, ``maps`` the radial basis masks they mean.

    Args:
        network: used as it is, not copied; asking puts it into eval mode.
    """

    name = "rbf"

    def __init__(self, network: ExplainedClassifier) -> None:
        self.network = network

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, side, side) in [0, 1], for labels (N,) or the predicted classes.

        Raises:
            DataError: images or labels do not fit the classifier.
        """
        selector = self.network.selector
        check_images(images, selector.side)
        if labels is not None:
            check_labels(labels, len(images), selector.filter.out_channels)
        device = selector.filter.weight.device
        self.network.eval()
        with torch.no_grad():
            _, numbers = self.network(images.to(device), None if labels is None else labels.to(device))
        return rbf_saliency(numbers, selector.side)


def rbf_saliency(numbers: Tensor, side: int) -> Saliency:
    """What RBF parameters (N, 3) say, as every explainer says it."""
    return Saliency(rbf_map(numbers, side)[:, 0], parameters=numbers)
