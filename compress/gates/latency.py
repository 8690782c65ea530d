"""Latency model: sum over layers of times measured on a grid of widths, interpolated. The timing is done elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cost import Floats
from .layers import LayerShape

FRACTIONS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)
"""Shares of a layer's width at which its time is measured, rounded up to a multiple of ``COARSEST_KNOT``."""

COARSEST_KNOT = 16

MULTIPLES = (32, 16, 8, 4, 1)
"""Multiples that ``align: auto`` chooses from."""

PADDING_TOLERANCE = 1.05
"""A width between two coarser ones is not padded if its time is at most this share of their interpolated time."""


@dataclass(frozen=True, order=True)
class TimedLayer:
    """Key of the latency table: shape of a convolution, or of a linear layer (with a kernel of ()).

    ``inputs`` are those of one group; ``groups`` equals ``outputs`` for a depthwise convolution. ``padding`` as in
    ``LayerShape``.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    groups: int
    inputs: int
    outputs: int
    transposed: bool = False

    @property
    def key(self) -> str:
        """As text, for a file: ``3x3 /1x1 +1x1x1x1 d1x1 @56x56 g1 64-128``."""
        if not self.kernel:
            return f"linear {self.inputs}-{self.outputs}"
        kernel, stride, padding, dilation, size = (
            "x".join(map(str, part)) for part in (self.kernel, self.stride, self.padding, self.dilation, self.size)
        )
        kind = "transposed " if self.transposed else ""
        geometry = f"{kernel} /{stride} +{padding} d{dilation} @{size}"
        return f"{kind}{geometry} g{self.groups} {self.inputs}-{self.outputs}"


Table = Mapping[TimedLayer, float]
"""ms of each measured layer."""


def timed_layer(layer: LayerShape, inputs: int, outputs: int, *, linear: bool = False) -> TimedLayer:
    """The shape of ``layer`` with other widths."""
    groups = outputs if layer.depthwise else layer.groups
    if linear:
        return TimedLayer((), (), (), (), (), 1, inputs, outputs)
    geometry = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.size)
    return TimedLayer(*geometry, groups, inputs, outputs, layer.transposed)


def knots(width: int, step: int = 1) -> list[int]:
    """Widths at which a side of a layer is timed, in multiples of ``step``."""
    coarse = math.lcm(COARSEST_KNOT, step)
    widths = {min(width, math.ceil(width * share / coarse) * coarse) for share in FRACTIONS}
    return sorted(widths | {k for k in (math.lcm(8, step),) if k < min(widths)})


def width_probes(layer: LayerShape) -> list[TimedLayer]:
    """Layers whose times show to which multiple the runtime pads channels (see ``preferred_multiple``)."""
    widths = (32, 33, 36, 40, 48, 64)
    return [timed_layer(layer, 1 if layer.depthwise else width, width) for width in widths]


def preferred_multiple(times: Sequence[float]) -> int:
    """The multiple of channels to align to, from the times of ``width_probes``.

    A finer multiple pays if a width in between takes no longer than interpolated between its two coarser neighbours
    (``PADDING_TOLERANCE``): a runtime that pads to blocks of 16 takes as long for 40 channels as for 48.
    """
    t32, t33, t36, t40, t48, t64 = times
    between = ((t48, (t32 + t64) / 2), (t40, (t32 + t48) / 2), (t36, (t32 + t40) / 2), (t33, (3 * t32 + t36) / 4))
    chosen = MULTIPLES[0]
    for multiple, (time, line) in zip(MULTIPLES[1:], between, strict=True):
        if time > PADDING_TOLERANCE * line:
            break
        chosen = multiple
    return chosen


class LatencyModel:
    """``Resource``: ms of a network, from a table of its layers' times and its measured total.

    Time that the layers do not explain (additions, pooling, reordering) is distributed over the layers' outputs, by
    their size. Where the layers' times add up to more than the total, all are scaled down to it.
    """

    def __init__(self, layers: Sequence[LayerShape], table: Table, total: float, pads: Mapping[str, int]) -> None:
        """``total``: ms of the network; ``pads``: the multiple to which the runtime pads a layer's widths."""
        self.constant = 0.0
        self.layers = tuple(layers)
        self._grids: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats, int] | None] = []
        for layer in layers:
            self._grids.append(_timed_grid(layer, table, pads.get(layer.name, 1)) if layer.unit else None)
        self._scale = 1.0
        self._each = np.zeros(len(layers))
        rows = np.arange(len(layers))
        inputs, outputs = (
            np.array([[getattr(layer, side)] for layer in layers], dtype=np.float64) for side in ("inputs", "outputs")
        )
        explained = float(self.of(rows, inputs, outputs).sum())
        self.explained = explained / total
        """Share of the total that the layers' times explain."""
        self._scale = min(1.0, total / explained)
        volumes = np.array([layer.unit / math.prod(layer.kernel) for layer in layers])
        self._each = volumes * max(0.0, total - explained) / float(volumes @ outputs[:, 0])

    @classmethod
    def of_share(
        cls, layers: Sequence[LayerShape], table: Table, share: float, pads: Mapping[str, int]
    ) -> LatencyModel:
        """For a network whose layers take ``share`` (0..1] of its time; its total follows from the table."""
        return cls(layers, table, cls(layers, table, 1.0, pads).explained / share, pads)

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        """See ``Resource``."""
        times = self._each[rows, None] * outputs
        for k, row in enumerate(rows.tolist()):
            if (grid := self._grids[row]) is not None:
                into, out, measured, pad = grid
                times_of_one_call = _interpolate(into, out, measured, pad, inputs[k], outputs[k])
                times[k] += self._scale * self.layers[row].calls * times_of_one_call
        return times


def grid_points(layer: LayerShape) -> tuple[list[int], list[int], dict[tuple[int, int], TimedLayer]]:
    """The widths at which ``layer`` is timed (inputs of one group, outputs), and the timed layer of each pair."""
    into = [1] if layer.depthwise else knots(layer.inputs)
    out = knots(layer.outputs, 1 if layer.depthwise else layer.groups)
    linear = layer.size == (1, 1) and layer.kernel == (1, 1) and layer.unit == 1
    return into, out, {(i, o): timed_layer(layer, i, o, linear=linear) for i in into for o in out}


def _timed_grid(layer: LayerShape, table: Table, pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, int]:
    into, out, points = grid_points(layer)
    times = np.array([[table[points[i, o]] for o in out] for i in into])
    return np.array(into), np.array(out), times, pad


def _interpolate(
    into: NDArray[np.int64], out: NDArray[np.int64], times: Floats, pad: int, inputs: Floats, outputs: Floats
) -> Floats:
    """Bilinear interpolation between the grid's points, at widths rounded up to multiples of ``pad``."""
    low_in, share_in = _bracket(into, inputs, pad if len(into) > 1 else 1)
    low_out, share_out = _bracket(out, outputs, pad)
    high_in, high_out = np.minimum(low_in + 1, len(into) - 1), np.minimum(low_out + 1, len(out) - 1)
    near = times[low_in, low_out] * (1 - share_out) + times[low_in, high_out] * share_out
    far = times[high_in, low_out] * (1 - share_out) + times[high_in, high_out] * share_out
    result: Floats = near * (1 - share_in) + far * share_in
    return result


def _bracket(at: NDArray[np.int64], widths: Floats, pad: int) -> tuple[NDArray[np.int64], Floats]:
    """Index of the knot at or below each width, and the share of the way to the next."""
    padded = np.clip(np.ceil(widths / pad - 1e-9) * pad, at[0], at[-1])
    low = np.clip(np.searchsorted(at, padded, side="right") - 1, 0, max(0, len(at) - 2))
    if len(at) == 1:
        return low, np.zeros(len(widths))
    return low, (padded - at[low]) / (at[low + 1] - at[low])
