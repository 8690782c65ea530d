"""Proof of channel groups: closing channels gives the outputs of removing them; groups that fail it are frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import PruningError, first_error_line
from ..modes import double_precision, one_thread
from ..modules import copy_of, to_precision_
from ..outputs import name_tensors
from ..progress import SILENT, Progress
from .groups import ChannelGraph, ChannelGroup, View, layer_width
from .mask import hard_factors, masked
from .plan import PrunePlan
from .side import small_images
from .slim import slim_or_break_

DRY_RUN_TOLERANCE = 1e-9
"""Relative difference in float64: correct surgery differs by rounding only."""

UNPROVEN = "it could not be proven within"
"""How the reason begins of a group for which there was no time."""

_CONSTANT = 1e-24
"""Variance below which a channel is constant but for rounding."""


def max_relative(candidate: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest absolute difference of outputs, relative to the largest reference value of each.

    Infinite where shapes differ, and where a number is not finite: that proves nothing.
    """
    worst = 0.0
    for ours, theirs in zip(candidate, reference, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        if not theirs.numel():
            continue
        if not theirs.is_floating_point():
            ours, theirs = ours.double(), theirs.double()
        if not (torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
            return float("inf")
        scale = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
        worst = max(worst, float((ours - theirs).abs().max() / scale))
    return worst


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(_named_outputs(network, images).values())


def _named_outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return name_tensors(network(images))


def gated_vs_slim(
    network: nn.Module,
    slim: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PrunePlan,
    images: Tensor,
) -> float:
    """``max_relative`` between the hard-gated network and the slim one, both in eval mode, on ``images`` (N,3,H,W)."""
    return max(differences(network, slim, groups, plan, images).values())


def differences(
    network: nn.Module,
    slim: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PrunePlan,
    images: Tensor,
) -> dict[str, float]:
    """``max_relative`` of every output by itself, by its name (``gated_vs_slim`` is the largest).

    Raises:
        PruningError: the slim network returns other outputs.
    """
    dtype = next(network.parameters()).dtype
    with masked(network, groups, hard_factors(plan, dtype=dtype)):
        expected = _named_outputs(network, images)
    found = _named_outputs(slim, images)
    if list(found) != list(expected):
        raise PruningError(
            f"the slim model returns {', '.join(found)} where the original returns {', '.join(expected)}"
        )
    return {name: max_relative([found[name]], [expected[name]]) for name in expected}


def shake_(network: nn.Module, images: Tensor, generator: torch.Generator) -> nn.Module:
    """Float64, eval mode, random weights for convolutions and linear layers, random numbers for other parameters that
    are still constant (a layer scale of 1e-6), and normalisations with random statistics around those of ``images``.

    What is not finite stays, as it proves nothing. Nothing else depends on what these layers have learned: a filter
    that learned zeros hides no wrong coupling. So a leaking bias cannot hide behind a zero, nor a wrong coupling behind
    a signal that fades layer by layer (in an untrained EfficientNet, closing half of an early group moves the logits by
    1e-11).
    """
    network = to_precision_(network, torch.float64).eval()
    _redraw_weights(network, generator)
    _wake_constants(network, generator)

    def scramble(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        noise = torch.rand(4, module.num_features, generator=generator, dtype=torch.float64).to(images.device)
        if module.affine:
            module.weight.data = 0.5 + noise[0]
            module.bias.data = noise[1] - 0.5
        if module.running_mean is not None and module.running_var is not None:
            values = args[0].transpose(0, 1).flatten(1)
            variance = values.var(1, correction=0)
            variance = torch.where(variance > _CONSTANT, variance, 1)
            module.running_mean = values.mean(1) + (noise[2] - 0.5) * variance.sqrt()
            module.running_var = variance * (0.5 + noise[3])

    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d) and module.running_mean is not None and module.running_var is not None:
            noise = torch.rand(2, module.num_features, generator=generator, dtype=torch.float64).to(images.device)
            module.running_mean, module.running_var = noise[0] - 0.5, noise[1] + 0.5
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    handles = [module.register_forward_pre_hook(scramble) for module in norms]
    try:
        _outputs(network, images)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PruningError(
            f"the model does not compute in double precision, in which its channels are proven "
            f"({first_error_line(error)}): let its forward() compute in the precision of its images"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return network


def _redraw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Weights by He's rule, under which a signal neither fades nor grows from layer to layer; biases around zero."""
    for module in network.modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        for parameter in module.parameters(recurse=False):
            values = parameter.data
            if not torch.isfinite(values).all():
                continue
            if values.dim() > 1:
                noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
                noise *= (2 / max(1, values[0].numel())) ** 0.5
            else:
                noise = torch.rand(values.shape, generator=generator, dtype=torch.float64) - 0.5
            parameter.data = noise.to(values.device)


def _wake_constants(network: nn.Module, generator: torch.Generator) -> None:
    for parameter in network.parameters():
        values = parameter.data
        if values.numel() < 2 or bool((values != values.flatten()[0]).any()):
            continue
        if values.squeeze().dim() > 1:
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            parameter.data = (noise / values[0].numel() ** 0.5).to(values.device)
        else:
            noise = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
            parameter.data = noise - 0.5 if float(values.flatten()[0]) == 0 else noise + 0.5


def _trial_plans(groups: Sequence[ChannelGroup], generator: torch.Generator) -> Iterator[PrunePlan]:
    """Trial plans, which remove from every group: a random half; the first half; one channel.

    Layers that split or reorder channels may pass the first by chance, but not the second (a split in two is no
    longer in the middle); channels that are tied to each other fail the third.
    """
    widths = {group.name: group.channels for group in groups}
    shuffled = {name: torch.randperm(width, generator=generator).tolist() for name, width in widths.items()}
    yield PrunePlan({name: tuple(sorted(order[len(order) // 2 :])) for name, order in shuffled.items()}, widths)
    yield PrunePlan({name: tuple(range(width // 2, width)) for name, width in widths.items()}, widths)
    yield PrunePlan({name: tuple(sorted(order[1:] or order)) for name, order in shuffled.items()}, widths)


def _dry_run(
    network: nn.Module,
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    images: Tensor,
    generator: torch.Generator,
    prefix: str,
    view: View | None,
) -> str | None:
    """Hard-gate random channels of the groups, remove them on a copy, compare; the reason of a failure."""
    for plan in _trial_plans(groups, generator):
        slim = copy_of(network)
        try:
            slim_or_break_(
                slim, plan, images[:1], prefix=prefix, view=view, known=graph if graph.by_index_maps else None
            )
            slim.requires_grad_(False)
            difference = gated_vs_slim(network, slim, groups, plan, images)
        except (RuntimeError, IndexError, ValueError, PruningError) as error:
            return f"removing channels breaks the network ({first_error_line(error)})"
        if not difference <= DRY_RUN_TOLERANCE:
            return f"removing channels is not what closing them is (outputs differ by {difference:.1e})"
    return None


def _widths_hint(network: nn.Module, group: ChannelGroup) -> str:
    """Hint at the most frequent cause of a failure: layers of several widths that were taken for one stream."""
    modules = dict(network.named_modules())
    widths = sorted({layer_width(modules[slot.layer]) for slot in group.producers})
    listed = ", ".join(str(width) for width in widths[:-1]) + f" and {widths[-1]}"
    return f"; layers of {listed} channels share them (a shortcut that pads channels?)" if len(widths) > 1 else ""


@one_thread()
def prove_groups(
    network: nn.Module,
    graph: ChannelGraph,
    images: Tensor,
    *,
    prefix: str = "",
    view: View | None = None,
    seed: int = 0,
    limit: float = 300.0,
    progress: Progress = SILENT,
) -> ChannelGraph:
    """Freeze every group for which closing channels is not the same function as removing them.

    All groups are tried together first: equal outputs prove them all. Only when that fails are the culprits found,
    by halving; and only when the rest still fails together, groups are added one by one. Large images are made
    smaller where that proves the same (``small_images``).

    Args:
        images: (N, 3, H, W) real images, a few.
        limit: seconds after which groups that are not proven yet are frozen.
    """
    if not graph.groups:
        return graph
    deadline = time.monotonic() + limit
    images = small_images(network, graph, images, prefix=prefix, view=view)  # in the network's own precision
    return _prove(network, graph, images.double(), prefix, view, seed, limit, deadline, progress)


@double_precision()
def _prove(
    network: nn.Module,
    graph: ChannelGraph,
    images: Tensor,
    prefix: str,
    view: View | None,
    seed: int,
    limit: float,
    deadline: float,
    progress: Progress,
) -> ChannelGraph:
    generator = torch.Generator().manual_seed(seed)
    shaken = shake_(copy_of(network), images, generator).requires_grad_(False)

    def fails(groups: Sequence[ChannelGroup]) -> str | None:
        return _dry_run(shaken, graph, groups, images, generator, prefix, view)

    if fails(graph.groups) is None:
        return graph
    reasons: dict[str, str] = {}
    pending = _halves(graph.groups)
    for suspects in progress.track(_drain(pending), "proving groups", unit="trial"):
        if time.monotonic() > deadline:
            reasons |= {group.name: _unproven(limit) for group in suspects}
            continue
        reason = fails(suspects)
        if reason is not None and len(suspects) > 1:
            pending += _halves(suspects)
        elif reason is not None:
            reasons[suspects[0].name] = reason + _widths_hint(shaken, suspects[0])
    proven = graph.without(reasons)
    if proven.groups and fails(proven.groups) is not None:
        reasons |= _misfits(proven.groups, fails, progress, deadline, limit)
    for name, reason in reasons.items():
        progress.note(f"group '{name}' is frozen: {reason}")
    return graph.without(reasons)


def _unproven(limit: float) -> str:
    return f"{UNPROVEN} {limit:g} s"


def _halves(groups: Sequence[ChannelGroup]) -> list[Sequence[ChannelGroup]]:
    middle = len(groups) // 2
    return [half for half in (groups[:middle], groups[middle:]) if half]


def _drain(pending: list[Sequence[ChannelGroup]]) -> Iterator[Sequence[ChannelGroup]]:
    """Pop from ``pending`` until it is empty; it may grow meanwhile."""
    while pending:
        yield pending.pop()


def _misfits(
    groups: Sequence[ChannelGroup],
    fails: Callable[[Sequence[ChannelGroup]], str | None],
    progress: Progress,
    deadline: float,
    limit: float,
) -> dict[str, str]:
    """Groups that pass one by one but not with those before them (Torch-Pruning loses an offset), with the reasons."""
    fitting: list[ChannelGroup] = []
    reasons = {}
    for group in progress.track(groups, "joining groups", total=len(groups), unit="group"):
        if time.monotonic() > deadline:
            reasons[group.name] = _unproven(limit)
            continue
        reason = fails([*fitting, group])
        if reason is None:
            fitting.append(group)
        else:
            reasons[group.name] = f"together with other groups {reason}"
    return reasons
