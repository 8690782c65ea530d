"""The head and the masks of one routed layer (DRIB; Wang et al., AAAI 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import moments, per_image

MASK_MOST = 5.0
"""Mask values are clamped to 0 .. this."""

FOLLOW = 0.05
"""How far the mean of the features moves with each training batch."""

MASK_LEAST = 1e-3
"""Kept values are at least this once masks are hard: what is counted and computed is what was kept."""


class Router(nn.Module):
    """Head and masks of one route: p = softmax(head(GAP(ReLU(x)))) over ``masks`` masks.

    Args:
        inputs: channels of x, what the routed layer reads.
        channels: channels it produces.
        masks: how many masks to choose from.
    """

    keep: Tensor
    mean: Tensor

    def __init__(self, inputs: int, channels: int, masks: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, masks, bias=False)
        nn.init.normal_(self.head.weight)
        self.masks = nn.Parameter(torch.ones(masks, channels))
        self.register_buffer("keep", torch.ones(masks, channels, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(inputs))
        self.hard = False
        self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """After each step: rows of the head have length 1 and lie across the mean of what they read.

        Mask values lie in 0 .. 5, closed ones at 0, and kept ones above it once masks are hard.

        Features after a ReLU have a mean that outweighs what tells images apart: along it, a head without a bias
        gives every image the same mask, and the others never learn.
        """
        rows = self.head.weight
        direction = F.normalize(self.mean, dim=0)
        rows.sub_((rows @ direction)[:, None] * direction)
        rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.masks.clamp_(MASK_LEAST if self.hard else 0.0, MASK_MOST).mul_(self.keep)

    def score(self, x: Tensor) -> Tensor:
        """(N, masks) scores of the masks for x (N, inputs, H, W)."""
        features = self.features(x)
        if self.training:
            self.follow_(features.detach())
        scores: Tensor = self.head(features)
        return scores

    def features(self, x: Tensor) -> Tensor:
        """(N, inputs) GAP(ReLU(x)): what the head reads."""
        return x.relu().mean((2, 3))

    def choose(self, scores: Tensor, temperature: float | None) -> Tensor:
        """(N, masks) one-hot choices.

        Args:
            temperature: of the hard straight-through Gumbel-softmax, in standard deviations of the scores over the
                batch: rows of length 1 leave scores on the scale of their layer's features, where noise of a fixed
                size would decide every choice. None: the largest score, no noise.
        """
        if temperature is None:
            return F.one_hot(scores.argmax(1), scores.shape[1]).to(self.masks.dtype)
        spread = moments(scores.detach().float(), (0,))[1].mean().clamp_min(1e-6)
        scaled = scores.float() / (temperature * spread)
        noise = -per_image(scaled.detach(), Tensor.exponential_).log()
        soft = (scaled + noise).softmax(1)
        hard = F.one_hot(soft.argmax(1), scores.shape[1]).to(soft.dtype)
        return (hard - soft.detach() + soft).to(self.masks.dtype)

    @torch.no_grad()
    def spread_(self, features: Tensor) -> None:
        """Point the head along the directions in which features (N, inputs) vary most, each of them both ways."""
        self.mean.copy_(features.mean(0))
        centred = features.double() - features.double().mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh
        number = torch.arange(len(self.masks), device=features.device)
        rows = directions[number // 2 % len(directions)]
        self.head.weight.copy_(torch.where(number[:, None] % 2 == 0, rows, -rows))
        self.project_()

    @torch.no_grad()
    def follow_(self, features: Tensor) -> None:
        """Let the mean follow the features (N, inputs) of a training batch."""
        self.mean.lerp_(moments(features, (0,))[0].to(self.mean.dtype), FOLLOW)
