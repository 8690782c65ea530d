"""VarSal on the classifier's own features: a selector head instead of a separate encoder, so that it can steer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..amortized.heads import PixelHead, resize_maps
from ..amortized.selector import ExplainedClassifier
from ..base import Saliency
from .topk import soft_top_k

KEPT_SHARE = 0.25
"""Share of the pixels that ``VarSalHead.to_maps`` keeps: the default target area of the other explainers, so that
masks of all of them can be compared."""


class VarSalHead(PixelHead):
    """Mean mu and log variance log nu per pixel of the finest scale: (N, 2, s, s).

    Only mu steers: it is the explanation, the ranking of the pixels. nu is how much that ranking may vary before the
    prediction changes, which any change of the features affects; and a squared distance of log variances has no common
    unit with one of means, so it would need a weight of its own.
    """

    kind = "varsal"
    outputs = 2
    sized = False
    epoch_keys = "explainer.varsal.epochs"

    def init_weights_(self) -> None:
        """Starts near the prior's variance, with means that differ: torch's default weights, of both signs."""
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps).float()

    def steered_part(self, numbers: Tensor) -> Tensor:
        return numbers[:, 0]

    def to_distribution(self, numbers: Tensor) -> Tensor:
        """(N, 2, side, side) mu and log nu of every pixel of the image."""
        return resize_maps(numbers, self.side)

    def to_maps(self, numbers: Tensor) -> Tensor:
        """The soft top-k mask of mu that keeps ``KEPT_SHARE`` of the pixels."""
        mean = self.to_distribution(numbers)[:, :1]
        return soft_top_k(mean, KEPT_SHARE * mean[0].numel())

    def to_saliency(self, numbers: Tensor) -> Saliency:
        """``maps`` = mu, ``uncertainty`` = sqrt(nu), in the prior's standard deviations; as ``VarSal``'s."""
        mean, log_variance = self.to_distribution(numbers).unbind(1)
        return Saliency(mean, uncertainty=torch.exp(log_variance / 2))


class SelectorMaps(nn.Module):
    """Images (N, 3, H, W) -> mu and log nu (N, 2, H, W) by the head of ``network``, for ``train_maps``, ``judge_maps``.

    Maps have the image's size before they are sampled and ranked, not after: the objective, its beta and its masks
    are then those of the paper and of the ``Encoder``, whatever the backbone's finest scale. The predicted class is
    explained, as in VarSal.
    """

    def __init__(self, network: ExplainedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        head = self.network.selector.head
        assert isinstance(head, VarSalHead)
        return head.to_distribution(self.network(images)[1])
