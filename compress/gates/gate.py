"""Learnable gates: one value per channel of every group, relaxed for learning, hard when deployed (ISP section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..surgery import ChannelGroup

OFFSET = 3.0
"""v = sigmoid((theta + gumbel + 3) / tau): gates start open (ISP supplement)."""

GUMBEL_MEDIAN = 0.36651292058166435
"""-log(log 2). At theta below -(3 + median) a gate is closed more often than open."""


class GateSample(NamedTuple):
    """Gate values in 0..1 (channels of all groups,) and their logarithms, both differentiable."""

    values: Tensor
    logs: Tensor


class Gates(nn.Module):
    """Gates of all groups: their logits theta in one vector, in the order of ``groups``."""

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        super().__init__()
        self.names = tuple(group.name for group in groups)
        self.widths = tuple(group.channels for group in groups)
        self.theta = nn.Parameter(torch.zeros(sum(self.widths)))

    def forward(self, *, noise: float = 1.0, temperature: float = 0.4) -> Tensor:
        """(channels of all groups,) gate values in 0..1 of one ``sample``."""
        return self.sample(noise=noise, temperature=temperature).values

    def sample(self, *, noise: float = 1.0, temperature: float = 0.4) -> GateSample:
        """One Gumbel sample of every gate.

        Args:
            noise: 1 is ISP's sample; 0 the median of the sample, without randomness.
        """
        logits = self.theta + OFFSET + GUMBEL_MEDIAN
        if noise:
            uniform = torch.rand_like(self.theta).clamp_(1e-9, 1 - 1e-7)
            logits = logits + noise * (-(-uniform.log()).log() - GUMBEL_MEDIAN)
        scaled = logits / temperature
        return GateSample(torch.sigmoid(scaled), F.logsigmoid(scaled))

    @torch.no_grad()
    def hard(self) -> Tensor:
        """(channels of all groups,) 1 where a gate is open more often than closed."""
        return (self.theta + OFFSET + GUMBEL_MEDIAN > 0).to(self.theta.dtype)

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all groups, by group."""
        return dict(zip(self.names, torch.split(values, list(self.widths)), strict=True))
