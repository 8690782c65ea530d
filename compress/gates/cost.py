"""Cost model: MACs, parameters and bytes as functions of the open channels, in closed form (ISP's T(v))."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..macs import count_params, size_bytes
from ..surgery import ChannelGroup, PrunePlan, hard_factors
from .layers import LayerShape, read_layers

Floats = NDArray[np.float64]


class Resource(Protocol):
    """A resource that a network uses: a constant, and a sum over layers of a function of their open channels."""

    @property
    def constant(self) -> float:
        """The part that does not depend on channels."""

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        """(rows, choices) use of the layers ``rows`` with so many open inputs and outputs, both (rows, choices)."""


@dataclass(frozen=True)
class ClosedForm:
    """``pair`` x inputs x outputs + ``each`` x outputs, per layer."""

    pair: Floats
    each: Floats
    constant: float

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        """See ``Resource``."""
        return (self.pair[rows, None] * inputs + self.each[rows, None]) * outputs


@dataclass(frozen=True)
class TouchedLayers:
    """The layers (``rows``) of a group's channels, and how many of their inputs and outputs each channel opens.

    ``into``, ``out``: (rows, channels). ``per_channel``: output channels of a layer per channel of the group (above 1
    where grouped convolutions tie filters).
    """

    rows: NDArray[np.int64]
    into: Floats
    out: Floats
    per_channel: int


class CostModel(nn.Module):
    """Cost T(v) of a classifier, gated layers and others, in MACs per image, and the other resources of a plan.

    MACs equal fvcore's to the MAC at hard gates and are differentiable in between. Float64: exact up to 2^53.
    ``resources``: everything that can be limited, by name: ``macs``, ``params``, ``size`` (bytes of the tensors,
    buffers included), and ``latency`` (ms) if the model is ``timed``.
    """

    members: Tensor
    fixed_in: Tensor
    fixed_out: Tensor
    unit: Tensor
    into: Tensor
    out: Tensor

    def __init__(
        self,
        layers: Sequence[LayerShape],
        groups: Sequence[ChannelGroup],
        *,
        macs: int | None = None,
        params: int = 0,
        size: int = 0,
    ) -> None:
        """``macs``, ``params`` and ``size`` are totals of the network, which may have more than its ``layers``.

        ``macs`` None: the layers compute all of it.
        """
        super().__init__()
        self.layers = tuple(layers)
        self.names = tuple(group.name for group in groups)
        self.widths = tuple(group.channels for group in groups)
        rows = {layer.name: row for row, layer in enumerate(layers)}
        self.touched = tuple(_touched_layers(group, rows, self.layers) for group in groups)
        members, into, out = _interchangeable_channels(self.touched, self.widths, len(layers))
        cell_sizes = (members < sum(self.widths)).sum(1).astype(np.float64)
        inputs, outputs = _layer_values(layers, "inputs"), _layer_values(layers, "outputs")
        self.fixed = 0 if macs is None else macs - sum(layer.macs for layer in self.layers)
        """MACs of what is no convolution or linear module; they do not depend on channels."""
        self.register_buffer("members", torch.from_numpy(members))
        for name, values in (
            ("into", into),
            ("out", out),
            ("fixed_in", inputs - into @ cell_sizes),
            ("fixed_out", outputs - out @ cell_sizes),
            ("unit", _layer_values(layers, "unit")),
        ):
            self.register_buffer(name, torch.from_numpy(values))
        self.resources: dict[str, Resource] = {
            "macs": ClosedForm(_layer_values(layers, "unit"), np.zeros(len(layers)), float(self.fixed)),
            "params": _closed_form(layers, "area", "each", params),
            "size": _closed_form(layers, "area_bytes", "each_bytes", size),
        }

    @classmethod
    def of(
        cls,
        classifier: nn.Module,
        example: Tensor,
        groups: Sequence[ChannelGroup],
        prefix: str = "",
        *,
        macs: int | None = None,
    ) -> CostModel:
        """The cost of ``classifier``; ``groups`` may come from a joint network that contains it below ``prefix``.

        ``macs``: all that it computes, where that is more than its layers do.
        """
        followers = {slot.layer.removeprefix(prefix) for group in groups for slot in group.followers}
        layers = read_layers(classifier, example, followers)
        named = [replace(layer, name=prefix + layer.name) for layer in layers]
        return cls(named, groups, macs=macs, params=count_params(classifier), size=size_bytes(classifier))

    def timed(self, latency: Resource) -> CostModel:
        """This model with ``latency`` (ms) among its resources."""
        model = copy.copy(self)
        model.resources = {**self.resources, "latency": latency}
        return model

    def forward(self, factors: Mapping[str, Tensor]) -> Tensor:
        """T(v) in MACs (scalar, float64) for gate values ``factors[group]`` (channels,)."""
        values = [factors[name].double() for name in self.names]
        return self.of_values(torch.cat(values) if values else self.unit.new_zeros(0))

    def of_values(self, values: Tensor) -> Tensor:
        """T(v) for all groups' gate values (..., channels) float64, in the order of ``names``: shape (...)."""
        # A zero is appended, at the index with which short cells are padded.
        open_ = torch.cat([values, values.new_zeros(*values.shape[:-1], 1)], -1)[..., self.members].sum(-1)
        opened_in = self.fixed_in + open_ @ self.into.T
        opened_out = self.fixed_out + open_ @ self.out.T
        return (self.unit * opened_in * opened_out).sum(-1) + self.fixed

    def of_plan(self, plan: PrunePlan) -> int:
        """MACs of the slim model that ``plan`` makes."""
        return round(self.amounts(plan)["macs"])

    def amounts(self, plan: PrunePlan) -> dict[str, float]:
        """Every resource of the slim model that ``plan`` makes."""
        values = hard_factors(plan, dtype=torch.float64)
        inputs, outputs = self.full_width()
        for name, touched in zip(self.names, self.touched, strict=True):
            closed = 1 - values[name].numpy()
            inputs[touched.rows] -= touched.into @ closed
            outputs[touched.rows] -= touched.out @ closed
        return self.amounts_at(inputs, outputs)

    def amounts_at(self, inputs: Floats, outputs: Floats) -> dict[str, float]:
        """Every resource, given the numbers of open inputs and outputs (layers,) of each layer."""
        rows = np.arange(len(self.layers))
        return {
            name: resource.constant + float(resource.of(rows, inputs[:, None], outputs[:, None]).sum())
            for name, resource in self.resources.items()
        }

    def full_width(self) -> tuple[Floats, Floats]:
        """(layers,) inputs and outputs with every channel open."""
        return _layer_values(self.layers, "inputs"), _layer_values(self.layers, "outputs")

    @property
    def total(self) -> int:
        """MACs with every gate open."""
        return round(self.totals["macs"])

    @property
    def totals(self) -> dict[str, float]:
        """Every resource with every gate open."""
        return self.amounts_at(*self.full_width())


def _layer_values(layers: Sequence[LayerShape], name: str) -> Floats:
    return np.array([getattr(layer, name) for layer in layers], dtype=np.float64)


def _closed_form(layers: Sequence[LayerShape], pair: str, each: str, total: int) -> ClosedForm:
    form = ClosedForm(_layer_values(layers, pair), _layer_values(layers, each), 0.0)
    inputs, outputs = _layer_values(layers, "inputs"), _layer_values(layers, "outputs")
    counted = form.of(np.arange(len(layers)), inputs[:, None], outputs[:, None]).sum()
    return replace(form, constant=float(total - counted))


def _touched_layers(group: ChannelGroup, rows: Mapping[str, int], layers: Sequence[LayerShape]) -> TouchedLayers:
    into: dict[int, Floats] = {}
    out: dict[int, Floats] = {}
    per_channel = 1
    for slots, side, filters in ((group.consumers, into, True), (group.producers + group.followers, out, False)):
        for slot in slots:
            if slot.layer not in rows:
                continue
            row = rows[slot.layer]
            counts = np.bincount(slot.sources, minlength=group.channels).astype(np.float64)
            # All groups of a grouped convolution read as many channels as one filter does.
            side[row] = side.get(row, 0.0) + counts / (layers[row].groups if filters else 1)
    for slot in group.producers:
        per_channel = max(per_channel, len(slot.sources) // len(set(slot.sources)))
    touched = sorted({*into, *out})
    zeros = np.zeros(group.channels)
    return TouchedLayers(
        np.array(touched, dtype=np.int64),
        np.stack([into.get(row, zeros) for row in touched]) if touched else np.zeros((0, group.channels)),
        np.stack([out.get(row, zeros) for row in touched]) if touched else np.zeros((0, group.channels)),
        per_channel,
    )


def _interchangeable_channels(
    touched: Sequence[TouchedLayers], widths: Sequence[int], layers: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Cells of channels that open the same layers by the same amounts, so that only the sum of their gates matters.

    Returns ``members`` (cells, widest) channel numbers over all groups, padded with the number of channels; and twice
    (layers, cells), how many inputs and how many outputs of every layer a channel of the cell opens.
    """
    starts = np.cumsum([0, *widths])
    cells: list[NDArray[np.int64]] = []
    into: list[Floats] = []
    out: list[Floats] = []
    for group, start, width in zip(touched, starts, widths, strict=False):
        columns = np.concatenate([group.into, group.out])
        same = np.zeros(width, dtype=np.int64)
        if len(columns) and (columns != columns[:, :1]).any():
            same = np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1)
        for cell in range(same.max() + 1):
            channels = np.flatnonzero(same == cell)
            cells.append(channels + start)
            for side, opened in ((into, group.into), (out, group.out)):
                column = np.zeros(layers)
                column[group.rows] = opened[:, channels[0]]
                side.append(column)
    members = np.full((len(cells), max(map(len, cells), default=0)), starts[-1], dtype=np.int64)
    for row, cell_members in enumerate(cells):
        members[row, : len(cell_members)] = cell_members
    stack = (np.stack(side, 1) if side else np.zeros((layers, 0)) for side in (into, out))
    return (members, *stack)  # type: ignore[return-value]
