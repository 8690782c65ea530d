"""MACs in closed form: each layer costs unit x (open inputs) x (open outputs) / groups (ISP's T(v))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..surgery import ChannelGroup, PrunePlan, Slot, hard_factors
from .layers import LayerShape, read_layers


class CostModel(nn.Module):
    """T(v) of the whole classifier: its gated layers and the rest, in MACs per image.

    Equal to fvcore to the MAC at hard gates, differentiable in between. Float64: MACs are exact up to 2^53.
    """

    fixed_in: Tensor
    fixed_out: Tensor
    unit: Tensor
    into: Tensor
    out: Tensor

    def __init__(self, layers: Sequence[LayerShape], groups: Sequence[ChannelGroup]) -> None:
        super().__init__()
        self.names = tuple(group.name for group in groups)
        self.widths = tuple(group.channels for group in groups)
        rows = {layer.name: row for row, layer in enumerate(layers)}
        starts = torch.tensor([0, *self.widths]).cumsum(0).tolist()
        shape = (len(layers), starts[-1])
        into, out = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        depthwise = {layer.name for layer in layers if layer.depthwise}
        for group, start in zip(groups, starts, strict=False):
            self._scatter(into, rows, group.consumers, start)
            self._scatter(out, rows, group.producers, start)
            # Channels of a depthwise layer go in and out together: they are counted once, as outputs.
            self._scatter(out, rows, [s for s in group.followers if s.layer in depthwise], start)
        widths_in = torch.tensor([1.0 if x.depthwise else x.inputs / x.groups for x in layers], dtype=torch.float64)
        widths_out = torch.tensor([float(x.outputs) for x in layers], dtype=torch.float64)
        self.register_buffer("into", into)
        self.register_buffer("out", out)
        self.register_buffer("fixed_in", widths_in - into.sum(1))
        self.register_buffer("fixed_out", widths_out - out.sum(1))
        self.register_buffer("unit", torch.tensor([float(x.unit) for x in layers], dtype=torch.float64))

    @staticmethod
    def _scatter(matrix: Tensor, rows: Mapping[str, int], slots: Sequence[Slot], start: int) -> None:
        for slot in slots:
            if slot.layer in rows:
                row, sources = rows[slot.layer], torch.tensor(slot.sources) + start
                matrix[row].index_add_(0, sources, torch.ones(len(sources), dtype=torch.float64))

    @classmethod
    def of(cls, classifier: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], prefix: str = "") -> CostModel:
        """The cost of ``classifier``; ``groups`` may come from a joint network that holds it below ``prefix``."""
        layers = read_layers(classifier, example)
        named = [LayerShape(prefix + x.name, x.inputs, x.outputs, x.groups, x.unit, x.depthwise) for x in layers]
        return cls(named, groups)

    def forward(self, factors: Mapping[str, Tensor]) -> Tensor:
        """T(v) in MACs (scalar, float64) for gate values ``factors[group]`` (channels,)."""
        values = torch.cat([factors[name].double() for name in self.names]) if self.names else self.into.new_zeros(0)
        return self.of_values(values)

    def of_values(self, values: Tensor) -> Tensor:
        """T(v) for all groups' gate values in one vector, in the order of ``names``."""
        opened_in = self.fixed_in + self.into @ values
        opened_out = self.fixed_out + self.out @ values
        return (self.unit * opened_in * opened_out).sum()

    def of_plan(self, plan: PrunePlan) -> int:
        """MACs of the slim model that ``plan`` makes."""
        return round(float(self.forward(hard_factors(plan, dtype=torch.float64))))

    @property
    def total(self) -> int:
        """MACs with every gate open."""
        return round(float(self.of_values(torch.ones_like(self.into[0]))))
