"""VarSal on the classifier's own features: a head that gates act on, instead of an encoder of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..amortized.heads import PixelHead, enlarged
from ..amortized.selector import ExplainedClassifier
from ..base import Saliency
from .topk import soft_top_k

SHOWN = 0.25
"""Share of the pixels that ``VarSalHead.to_maps`` keeps: the area that the other explainers aim for by default, so
that masks of all of them can be held beside each other."""


class VarSalHead(PixelHead):
    """Mean mu and log variance log nu per pixel of the finest scale: (N, 2, s, s).

    Only mu steers. It is the explanation: which pixels the prediction rests on. nu says how freely that ranking may be
    redrawn before the prediction changes, which any change of the features moves, and a squared distance of logarithms
    has no common unit with one of means: its share of the sum would be a weight of its own.
    """

    kind = "varsal"
    outputs = 2
    sized = False
    trained_by = "explainer.varsal.epochs"

    def start_(self) -> None:
        """The prior's own variance, and means that differ: torch's weights, of both signs."""
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps).float()

    def steers(self, numbers: Tensor) -> Tensor:
        return numbers[:, 0]

    def to_distribution(self, numbers: Tensor) -> Tensor:
        """(N, 2, side, side) mu and log nu of every pixel of the image."""
        return enlarged(numbers, self.side)

    def to_maps(self, numbers: Tensor) -> Tensor:
        """The soft top-k mask of mu that keeps ``SHOWN`` of the pixels."""
        mean = self.to_distribution(numbers)[:, :1]
        return soft_top_k(mean, SHOWN * mean[0].numel())

    def to_saliency(self, numbers: Tensor) -> Saliency:
        """``maps`` = mu, ``uncertainty`` = sqrt(nu), in the prior's standard deviations; as ``VarSal``'s."""
        mean, log_variance = self.to_distribution(numbers).unbind(1)
        return Saliency(mean, uncertainty=torch.exp(log_variance / 2))


class SelectorMaps(nn.Module):
    """What ``train_maps`` and ``judge_maps`` take: images (N, 3, H, W) -> (N, 2, H, W), by the head of ``network``.

    Maps are of the image's size before they are sampled and ranked, not after: the objective, its beta and the masks
    that it looks through are then those of the paper, and of the ``Encoder``, whatever the backbone's finest scale.
    The class explained is the predicted one: VarSal explains the prediction.
    """

    def __init__(self, network: ExplainedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        head = self.network.selector.head
        assert isinstance(head, VarSalHead)
        return head.to_distribution(self.network(images)[1])
