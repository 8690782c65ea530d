"""Freezes groups whose channels are read by layers that run in training mode only, such as auxiliary heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import PruningError, first_error_line
from ..models.classifier import all_outputs
from ..modes import eval_mode, training_structure
from ..modules import copy_of
from ..progress import SILENT, Progress
from .follow import follow_groups
from .graph import dependency_graph, read_group
from .groups import ChannelGraph, ChannelGroup, group_slots
from .plan import PrunePlan
from .side import count_reads
from .slim import slim_or_break_


def freeze_training_only(
    network: nn.Module, graph: ChannelGraph, images: Tensor, *, prefix: str = "", progress: Progress = SILENT
) -> ChannelGraph:
    """``graph`` with every group frozen of which layers that run only in training read, normalise or add channels.

    The network is traced as it is in eval mode; finetuning would fail on the shapes of such layers, or not learn them.
    A network whose training mode fails on ``images`` is left as it is, and ``progress`` told.

    Args:
        images: (N, C, H, W).
        prefix: where the classifier sits in a joint network; the groups are named relative to it.
    """
    inner = copy_of(network.get_submodule(prefix.removesuffix(".")) if prefix else network)
    with eval_mode(inner):
        known = count_reads(inner, images)
    try:
        with training_structure(inner):
            more = count_reads(inner, images) - known
    except Exception as error:  # noqa: BLE001 - a forward() may raise anything in training mode (it needs targets)
        progress.note(
            f"the model does not run in training mode on images alone ({first_error_line(error)}): layers that run "
            "only there are not looked for"
        )
        return graph
    if not more:
        return graph
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in more))
    reason = f"{_listed(layers)} only in training, and reads or changes its channels"
    touched = _touched(inner, graph, images, prefix)
    graph = graph.without({group.name: reason for group in graph.groups if group.name in touched})
    return graph.without(dict.fromkeys(_breaking(inner, graph.groups, images), reason))


def _listed(layers: Sequence[str]) -> str:
    if len(layers) == 1:
        return f"'{layers[0]}' runs"
    return f"'{layers[0]}' (and {len(layers) - 1} more) runs"


def _touched(inner: nn.Module, graph: ChannelGraph, images: Tensor, prefix: str) -> set[str]:
    """Names of the groups that have more to them in training mode than in eval mode; all, if that cannot be seen."""
    if graph.by_index_maps:
        whole = {group.name: group for group in follow_groups(inner, images[:1], view=_in_training).groups}
        return {
            group.name
            for group in graph.groups
            if group.name not in whole or not _places(whole[group.name], "") <= _places(group, prefix)
        }
    inner = inner.requires_grad_(True)
    try:
        trained = dependency_graph(inner, images[:1], _training_outputs)
    except PruningError:
        return {group.name for group in graph.groups}
    names = {module: name for name, module in inner.named_modules()}
    modules = dict(inner.named_modules())
    touched = set()
    for group in graph.groups:
        layer = modules[group.name]
        if layer not in trained.module2node:
            continue
        found, reason = read_group(trained, layer, group.name, names)
        if reason is not None or not _places(found, "") <= _places(group, prefix):
            touched.add(group.name)
    return touched


def _breaking(inner: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> list[str]:
    """Names of the groups without whose channels the network does not run in training mode.

    A head whose output is kept in an attribute, and weights that are read outside of their layer, are in no graph of
    what the network returns.
    """
    if not groups or _runs_without(inner, groups, images):
        return []
    return [group.name for group in groups if not _runs_without(inner, [group], images)]


def _runs_without(inner: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> bool:
    """Whether a copy without the first half of the channels of ``groups`` runs in training mode."""
    kept = {group.name: tuple(range(group.channels // 2, group.channels)) for group in groups}
    slim = copy_of(inner)
    try:
        slim_or_break_(slim, PrunePlan(kept, {group.name: group.channels for group in groups}), images[:1])
    except (PruningError, RuntimeError, IndexError, ValueError):
        return True  # not for what runs in training: the proof in eval mode says why
    try:
        with training_structure(slim), torch.no_grad():
            slim(images)
    except Exception:  # noqa: BLE001 - the network itself runs in training mode: whatever it is, the channels are missing
        return False
    return True


def _places(group: ChannelGroup, prefix: str) -> set[tuple[str, int, int]]:
    """Every position of a layer of the classifier with the channel that it belongs to."""
    return {
        (slot.layer.removeprefix(prefix), position, source)
        for slot in group_slots(group)
        for position, source in zip(slot.positions, slot.sources, strict=True)
    }


def _in_training(network: nn.Module, images: Tensor) -> Any:
    with training_structure(network):
        return all_outputs(network, images)


def _training_outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    with training_structure(network):
        outputs = all_outputs(network, images)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
