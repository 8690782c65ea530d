"""Close channels without removing them: multiply the input of every consumer by a factor per channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .groups import ChannelGroup
from .plan import PrunePlan


class InputFactors:
    """Assembles a factor per input channel of each consuming layer from the groups' factors."""

    def __init__(self, network: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        modules = dict(network.named_modules())
        self._parts: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
        self._widths: dict[str, int] = {}
        for group in groups:
            for slot in group.consumers:
                layer = modules[slot.layer]
                self._widths[slot.layer] = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                part = (group.name, torch.tensor(slot.positions), torch.tensor(slot.sources))
                self._parts.setdefault(slot.layer, []).append(part)

    @property
    def layers(self) -> tuple[str, ...]:
        """The consuming layers."""
        return tuple(self._parts)

    def of(self, layer: str, factors: Mapping[str, Tensor]) -> Tensor:
        """(C_in,) factors of a layer's input channels; channels of no group keep the factor one."""
        parts = self._parts[layer]
        name, positions, sources = parts[0]
        if len(parts) == 1 and torch.equal(positions, torch.arange(self._widths[layer])):
            return factors[name][sources.to(factors[name].device)]
        whole = torch.ones(self._widths[layer], dtype=factors[name].dtype, device=factors[name].device)
        for name, positions, sources in parts:
            value = factors[name]
            whole = whole.index_put((positions.to(value.device),), value[sources.to(value.device)])
        return whole


@contextmanager
def masked(network: nn.Module, groups: Sequence[ChannelGroup], factors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """``network`` with each group's channels multiplied by ``factors[group]`` (channels,) where they are consumed.

    Multiplying there is the same function as removing the channel (for factors 0 and 1), whatever bias,
    normalisation or activation lies between producer and consumer. The mapping is read at every forward.
    """
    inputs = InputFactors(network, groups)
    modules = dict(network.named_modules())

    def hook_of(layer: str) -> object:
        def multiply(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            images, *rest = args
            factor = inputs.of(layer, factors).to(images)
            # A linear layer reads its channels from the last dimension, maps (N, H, W, C) included.
            shape = (-1,) if isinstance(module, nn.Linear) else (1, -1, 1, 1)
            return (images * factor.view(shape), *rest)

        return multiply

    handles = [modules[layer].register_forward_pre_hook(hook_of(layer)) for layer in inputs.layers]
    try:
        yield network
    finally:
        for handle in handles:
            handle.remove()


def hard_factors(plan: PrunePlan, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Factors 1 for kept and 0 for removed channels."""
    factors = {}
    for name, kept in plan.kept.items():
        factor = torch.zeros(plan.widths[name], dtype=dtype)
        factor[list(kept)] = 1
        factors[name] = factor
    return factors
