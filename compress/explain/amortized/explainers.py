"""Amortized explainers behind the interface that all explainers share."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import Saliency, check_images, check_labels, modules_of
from .heads import RbfHead, RealXHead
from .pyramid import captured
from .selector import ExplainedClassifier, can_fuse, fused


class AmortizedExplainer:
    """Asks the selector that a classifier is joined with: one forward pass, in float32 and eval mode.

    Args:
        network: used as it is, not copied; asking puts it into eval mode.
    """

    head: ClassVar[type[nn.Module]] = nn.Module
    """The head that it speaks for; any, unless a subclass says so."""

    def __init__(self, network: ExplainedClassifier) -> None:
        found = network.selector.head
        assert isinstance(found, self.head), f"{type(self).__name__} cannot speak for a {type(found).__name__}"
        self.network = network

    @property
    def name(self) -> str:
        """As recipes call it: ``rbf``, ``realx``, ``varsal``."""
        return self.network.selector.head.kind

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1], for labels (N,) or the predicted classes.

        Raises:
            DataError: images or labels do not fit the classifier.
        """
        selector = self.network.selector
        check_images(images, selector.side)
        if labels is not None:
            check_labels(labels, len(images), selector.filter.out_channels)
        device = selector.filter.weight.device
        modules = modules_of(self.network)
        if any(module.training for module in modules):
            self.network.eval()
        answer = partial(fused, selector) if can_fuse(modules, device) else selector
        with torch.inference_mode():
            with captured(self.network.classifier, selector.scales) as features:
                logits = self.network.classifier(images.to(device))
            numbers = answer(features, logits.argmax(1) if labels is None else labels.to(device))
        with torch.no_grad():  # of a copy: what autograd must not keep stays inside
            return selector.head.to_saliency(numbers.clone())


class RbfExplainer(AmortizedExplainer):
    """ISP's: ``parameters`` are (N, 3) row, column and sigma in pixels, ``maps`` the radial basis masks they mean."""

    head = RbfHead


class RealXExplainer(AmortizedExplainer):
    """REAL-X: ``maps`` are the probabilities with which each pixel is kept."""

    head = RealXHead
