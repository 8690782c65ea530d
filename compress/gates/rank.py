"""Baseline rankings by weight magnitude, for the same selection, surgery and finetuning as learned gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..surgery import ChannelGroup


@torch.no_grad()
def group_l2(network: nn.Module, group: ChannelGroup) -> Tensor:
    """(channels,) L2 norm of each channel's filters over all layers that produce the group."""
    modules = dict(network.named_modules())
    squares = torch.zeros(group.channels, dtype=torch.float64)
    for slot in group.producers:
        layer = modules[slot.layer]
        weight = layer.weight.double().cpu()
        if isinstance(layer, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        norms = weight.flatten(1).square().sum(1)
        squares.index_add_(0, torch.tensor(slot.sources), norms[list(slot.positions)])
    return squares.sqrt()


def magnitude(network: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Group L2 norms divided by the group's mean, so that scores are comparable across layers of different scale."""
    scores = {group.name: group_l2(network, group) for group in groups}
    return {name: score / score.mean().clamp_min(1e-12) for name, score in scores.items()}


def uniform(network: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Rank of the L2 norm within its group, 0..1, so that a global threshold removes the same share of every group."""
    scores = {}
    for group in groups:
        order = torch.argsort(group_l2(network, group), stable=True)
        rank = torch.empty(group.channels, dtype=torch.float64)
        rank[order] = (torch.arange(group.channels, dtype=torch.float64) + 0.5) / group.channels
        scores[group.name] = rank
    return scores
