"""What each channel is worth: by learned gates, by gradients, or by the weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimsight.compress.config import GatesConfig
from slimsight.compress.data import BatchSource
from slimsight.compress.explain import Targets
from slimsight.compress.gates import CostModel, GateResult, learn_gates, magnitude, uniform
from slimsight.compress.gates.importance import add_gradients_, importances, needs_gradients
from slimsight.compress.modules import copy_of
from slimsight.compress.surgery import ChannelGraph
from slimsight.compress.training import Learning

from .steps import classifier_of

_BY_WEIGHTS = {"magnitude": magnitude, "uniform": uniform}


@dataclass(frozen=True)
class ChannelScores:
    """What each channel is worth: ``of`` is group -> (channels,); ``learned`` is None for a ranking by weights."""

    of: Mapping[str, Tensor]
    learned: GateResult | None = None


def rank_by_weights(network: nn.Module, graph: ChannelGraph, ranking: str) -> dict[str, Tensor]:
    """Scores of a ranking that learns nothing and needs no images: one of ``RANKINGS`` but ``taylor``."""
    if ranking in _BY_WEIGHTS:
        return _BY_WEIGHTS[ranking](network, graph.groups)
    return importances(network, graph.groups, ranking)


def rank_by_gradients(
    network: nn.Module, graph: ChannelGraph, ranking: str, train: BatchSource, learning: Learning
) -> dict[str, Tensor]:
    """Scores of a ranking that reads the gradients of the loss (``taylor``); ``network`` is left as it was."""
    twin = copy_of(network)
    add_gradients_(classifier_of(twin), train, learning)
    for parameter in twin.parameters():
        if parameter.grad is None:  # of an explainer: it is no part of the loss
            parameter.grad = torch.zeros_like(parameter)
    return importances(twin, graph.groups, ranking)


def score_channels(
    network: nn.Module,
    graph: ChannelGraph,
    cost: CostModel,
    train: BatchSource,
    learning: Learning,
    *,
    config: GatesConfig,
    budget: float,
    targets: Targets | None,
    from_labels: bool = True,
) -> ChannelScores:
    """Rank the channels as ``config.steer`` says: by learned gates (ISP Eq. 10), gradients, or the weights alone.

    Args:
        train: images without augmentation, which ``targets`` belong to.
        budget: MACs that the gates aim for.
        targets: C_x of the unpruned network; None: the gates are not steered.
        from_labels: False: from what the network itself predicts; labels are not read.

    Returns:
        Gates that did not converge are there too (``GateResult.converged``): the caller decides what they are worth.
    """
    if needs_gradients(config.steer):
        return ChannelScores(rank_by_gradients(network, graph, config.steer, train, learning))
    if not config.learned:
        return ChannelScores(rank_by_weights(network, graph, config.steer))
    result = learn_gates(
        network,
        graph.groups,
        cost,
        train,
        learning,
        config=config,
        budget=budget,
        targets=targets,
        from_labels=from_labels,
    )
    return ChannelScores(result.scores, result)
