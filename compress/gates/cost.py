"""What a network costs as a function of its open channels: MACs, parameters and bytes in closed form (ISP's T(v))."""

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
    """Something that a network uses: a constant and a sum over its layers of a function of their open channels."""

    @property
    def constant(self) -> float:
        """What no channel changes."""

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        """(rows, choices) what each layer uses with so many open channels, both (rows, choices)."""


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
class Touched:
    """The layers (``rows``) that a group's channels pass, and how much each channel opens of their inputs and outputs.

    ``into``, ``out``: (rows, channels). ``per_channel``: output channels of a layer behind one channel of the group
    (above 1 where a group of filters goes as one).
    """

    rows: NDArray[np.int64]
    into: Floats
    out: Floats
    per_channel: int


class CostModel(nn.Module):
    """T(v) of the whole classifier: its gated layers and the rest, in MACs per image; and what else a plan costs.

    MACs equal fvcore's to the MAC at hard gates and are differentiable in between. Float64: exact up to 2^53.
    ``resources`` holds every amount that can be limited, by name: ``macs``, ``params``, ``size`` (bytes of the tensors,
    buffers included), and ``latency`` (ms) once the model is ``timed``.
    """

    members: Tensor
    fixed_in: Tensor
    fixed_out: Tensor
    unit: Tensor
    into: Tensor
    out: Tensor

    def __init__(
        self, layers: Sequence[LayerShape], groups: Sequence[ChannelGroup], *, params: int = 0, size: int = 0
    ) -> None:
        """``params`` and ``size`` are those of the whole network, which may have more than its ``layers``."""
        super().__init__()
        self.layers = tuple(layers)
        self.names = tuple(group.name for group in groups)
        self.widths = tuple(group.channels for group in groups)
        rows = {layer.name: row for row, layer in enumerate(layers)}
        self.touched = tuple(_touched(group, rows, self.layers) for group in groups)
        members, into, out = _cells(self.touched, self.widths, len(layers))
        sizes = (members < sum(self.widths)).sum(1).astype(np.float64)
        inputs, outputs = _column(layers, "inputs"), _column(layers, "outputs")
        self.register_buffer("members", torch.from_numpy(members))
        for name, values in (
            ("into", into),
            ("out", out),
            ("fixed_in", inputs - into @ sizes),
            ("fixed_out", outputs - out @ sizes),
            ("unit", _column(layers, "unit")),
        ):
            self.register_buffer(name, torch.from_numpy(values))
        self.resources: dict[str, Resource] = {
            "macs": ClosedForm(_column(layers, "unit"), np.zeros(len(layers)), 0.0),
            "params": _closed_form(layers, "area", "each", params),
            "size": _closed_form(layers, "area_bytes", "each_bytes", size),
        }

    @classmethod
    def of(cls, classifier: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], prefix: str = "") -> CostModel:
        """The cost of ``classifier``; ``groups`` may come from a joint network that holds it below ``prefix``."""
        followers = {slot.layer.removeprefix(prefix) for group in groups for slot in group.followers}
        layers = read_layers(classifier, example, followers)
        named = [replace(layer, name=prefix + layer.name) for layer in layers]
        return cls(named, groups, params=count_params(classifier), size=size_bytes(classifier))

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
        # A last value of zero, which short cells are filled up with.
        open_ = torch.cat([values, values.new_zeros(*values.shape[:-1], 1)], -1)[..., self.members].sum(-1)
        opened_in = self.fixed_in + open_ @ self.into.T
        opened_out = self.fixed_out + open_ @ self.out.T
        return (self.unit * opened_in * opened_out).sum(-1)

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
        """Every resource, for so many open inputs and outputs (layers,) of each layer."""
        rows = np.arange(len(self.layers))
        return {
            name: resource.constant + float(resource.of(rows, inputs[:, None], outputs[:, None]).sum())
            for name, resource in self.resources.items()
        }

    def full_width(self) -> tuple[Floats, Floats]:
        """(layers,) inputs and outputs with every channel open."""
        return _column(self.layers, "inputs"), _column(self.layers, "outputs")

    @property
    def total(self) -> int:
        """MACs with every gate open."""
        return round(self.totals["macs"])

    @property
    def totals(self) -> dict[str, float]:
        """Every resource with every gate open."""
        return self.amounts_at(*self.full_width())


def _column(layers: Sequence[LayerShape], name: str) -> Floats:
    return np.array([getattr(layer, name) for layer in layers], dtype=np.float64)


def _closed_form(layers: Sequence[LayerShape], pair: str, each: str, total: int) -> ClosedForm:
    form = ClosedForm(_column(layers, pair), _column(layers, each), 0.0)
    inputs, outputs = _column(layers, "inputs"), _column(layers, "outputs")
    counted = form.of(np.arange(len(layers)), inputs[:, None], outputs[:, None]).sum()
    return replace(form, constant=float(total - counted))


def _touched(group: ChannelGroup, rows: Mapping[str, int], layers: Sequence[LayerShape]) -> Touched:
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
    found = sorted({*into, *out})
    nothing = np.zeros(group.channels)
    return Touched(
        np.array(found, dtype=np.int64),
        np.stack([into.get(row, nothing) for row in found]) if found else np.zeros((0, group.channels)),
        np.stack([out.get(row, nothing) for row in found]) if found else np.zeros((0, group.channels)),
        per_channel,
    )


def _cells(touched: Sequence[Touched], widths: Sequence[int], layers: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Channels of a group that open the same layers by the same amounts form a cell: only their sum matters.

    Returns ``members`` (cells, widest) channel numbers over all groups, filled up with the number of channels; and
    (layers, cells) how much each of a cell's channels opens of every layer's inputs and outputs.
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
            for side, found in ((into, group.into), (out, group.out)):
                column = np.zeros(layers)
                column[group.rows] = found[:, channels[0]]
                side.append(column)
    members = np.full((len(cells), max(map(len, cells), default=0)), starts[-1], dtype=np.int64)
    for row, cell_members in enumerate(cells):
        members[row, : len(cell_members)] = cell_members
    stack = (np.stack(side, 1) if side else np.zeros((layers, 0)) for side in (into, out))
    return (members, *stack)  # type: ignore[return-value]
