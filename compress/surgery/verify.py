"""Evidence: what is hard-gated computes what is left after surgery; a group that fails the proof is frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..progress import SILENT, Progress
from .graph import ChannelGraph, ChannelGroup, View
from .mask import hard_factors, masked
from .plan import PrunePlan
from .slim import slim_

DRY_RUN_TOLERANCE = 1e-9
"""Relative, in float64: a right surgery differs by rounding only."""


def max_relative(candidate: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest absolute difference of outputs, relative to the largest reference value of each; inf if shapes differ."""
    worst = 0.0
    for ours, theirs in zip(candidate, reference, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        scale = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
        worst = max(worst, float((ours - theirs).abs().max() / scale))
    return worst


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = network(images)
    return [output] if isinstance(output, Tensor) else list(output)


def gated_vs_slim(
    network: nn.Module,
    slim: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PrunePlan,
    images: Tensor,
) -> float:
    """``max_relative`` between the hard-gated network and the slim one, both in eval mode, on ``images`` (N,3,H,W)."""
    dtype = next(network.parameters()).dtype
    with masked(network, groups, hard_factors(plan, dtype=dtype)):
        expected = _outputs(network, images)
    return max_relative(_outputs(slim, images), expected)


def _shake(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Float64, and normalisations with random statistics, so that a leaking bias cannot hide behind a zero."""
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            size = module.num_features
            noise = torch.rand(4, size, generator=generator, dtype=torch.float64)
            if module.affine:
                module.weight.data = 0.5 + noise[0]
                module.bias.data = noise[1] - 0.5
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean = (noise[2] - 0.5) * module.running_var.sqrt()
                module.running_var = module.running_var * (0.5 + noise[3])
    return network


def _half_plan(groups: Sequence[ChannelGroup], generator: torch.Generator) -> PrunePlan:
    kept = {}
    for group in groups:
        order = torch.randperm(group.channels, generator=generator)
        kept[group.name] = tuple(sorted(order[: max(1, group.channels // 2)].tolist()))
    return PrunePlan(kept, {group.name: group.channels for group in groups})


def _dry_run(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    images: Tensor,
    generator: torch.Generator,
    prefix: str,
    view: View | None,
) -> str | None:
    """Hard-gate a random half of the groups' channels, remove it on a copy, compare; the reason of a failure."""
    plan = _half_plan(groups, generator)
    if not plan.shrinks:
        return "a single channel cannot be split"
    slim = copy.deepcopy(network)
    try:
        slim_(slim, plan, images[:1], prefix=prefix, view=view)
        difference = gated_vs_slim(network, slim, groups, plan, images)
    except (RuntimeError, IndexError, ValueError, PruningError) as error:
        text = str(error).splitlines()
        return f"removing channels breaks the network ({text[0] if text else type(error).__name__})"
    if difference <= DRY_RUN_TOLERANCE:
        return None
    return f"removing channels is not what closing them is (outputs differ by {difference:.1e})"


def prove_groups(
    network: nn.Module,
    graph: ChannelGraph,
    images: Tensor,
    *,
    prefix: str = "",
    view: View | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ChannelGraph:
    """Freeze every group for which closing channels is not the same function as removing them.

    All groups are tried together first: one equal output proves them all. Only when that fails is each tried
    alone (to name the culprits) and the rest together again.

    Args:
        images: (N, 3, H, W) real images, a few.
    """
    generator = torch.Generator().manual_seed(seed)
    shaken = _shake(copy.deepcopy(network), generator).requires_grad_(False)
    images = images.double()

    def fails(groups: Sequence[ChannelGroup]) -> str | None:
        return _dry_run(shaken, groups, images, generator, prefix, view)

    if not graph.groups or fails(graph.groups) is None:
        return graph
    reasons = {}
    for group in progress.track(graph.groups, "proving groups", total=len(graph.groups), unit="group"):
        reason = fails([group])
        if reason is not None:
            reasons[group.name] = reason
            progress.note(f"group '{group.name}' is frozen: {reason}")
    proven = graph.without(reasons)
    if proven.groups and (reason := fails(proven.groups)) is not None:
        raise PruningError(
            f"each of the {len(proven.groups)} channel groups is exact alone, but not together: {reason}; "
            "this is a defect of the dependency graph: please report the model"
        )
    return proven
