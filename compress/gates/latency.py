"""Latency as a sum over layers: measured times on a grid of widths, interpolated. Pure numbers; no runtime here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cost import Floats
from .layers import LayerShape

FRACTIONS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)
"""Of a layer's width: where its time is measured, at the next multiple of ``COARSEST_KNOT``."""

COARSEST_KNOT = 16

MULTIPLES = (32, 16, 8, 4, 1)
"""What ``align: auto`` chooses from."""

WORTH = 1.05
"""A width between two coarser ones may take this share of the line between their times."""


@dataclass(frozen=True, order=True)
class TimedLayer:
    """A convolution (or, with a kernel of (), a linear layer) whose time is a point of the table.

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
        place = f"{kernel} /{stride} +{padding} d{dilation} @{size}"
        return f"{kind}{place} g{self.groups} {self.inputs}-{self.outputs}"


Table = Mapping[TimedLayer, float]
"""ms of each measured layer."""


def timed_layer(layer: LayerShape, inputs: int, outputs: int, *, linear: bool = False) -> TimedLayer:
    """``layer`` with other widths."""
    groups = outputs if layer.depthwise else layer.groups
    if linear:
        return TimedLayer((), (), (), (), (), 1, inputs, outputs)
    place = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.size)
    return TimedLayer(*place, groups, inputs, outputs, layer.transposed)


def knots(width: int, step: int = 1) -> list[int]:
    """Widths at which a side of a layer is timed, in multiples of ``step``."""
    coarse = math.lcm(COARSEST_KNOT, step)
    found = {min(width, math.ceil(width * share / coarse) * coarse) for share in FRACTIONS}
    return sorted(found | {k for k in (math.lcm(8, step),) if k < min(found)})


def probes(layer: LayerShape) -> list[TimedLayer]:
    """Layers whose times say which multiple of channels the runtime likes."""
    widths = (32, 33, 36, 40, 48, 64)
    return [timed_layer(layer, 1 if layer.depthwise else width, width) for width in widths]


def liked_multiple(times: Sequence[float]) -> int:
    """The multiple of channels worth keeping to, from the times of ``probes``.

    A finer multiple is worth it where a width in between takes no longer than the line between its two coarser
    neighbours (``WORTH``): a runtime that pads to blocks of 16 pays for 48 when it computes 40.
    """
    t32, t33, t36, t40, t48, t64 = times
    between = ((t48, (t32 + t64) / 2), (t40, (t32 + t48) / 2), (t36, (t32 + t40) / 2), (t33, (3 * t32 + t36) / 4))
    chosen = MULTIPLES[0]
    for multiple, (time, line) in zip(MULTIPLES[1:], between, strict=True):
        if time > WORTH * line:
            break
        chosen = multiple
    return chosen


class LatencyModel:
    """A resource: ms of a network, from a table of its layers' times and the measured time of the whole.

    What the layers do not explain (additions, pooling, reordering) is shared out over the maps that layers put out,
    by their size. Where layers alone would take longer than the whole, all are scaled down to it.
    """

    def __init__(self, layers: Sequence[LayerShape], table: Table, total: float, pads: Mapping[str, int]) -> None:
        """``total``: ms of the whole network; ``pads``: the multiple that a layer's widths are computed in."""
        self.constant = 0.0
        self.layers = tuple(layers)
        self._grids: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats, int] | None] = []
        for layer in layers:
            self._grids.append(_grid(layer, table, pads.get(layer.name, 1)) if layer.unit else None)
        self._scale = 1.0
        self._each = np.zeros(len(layers))
        rows = np.arange(len(layers))
        inputs, outputs = (
            np.array([[getattr(layer, side)] for layer in layers], dtype=np.float64) for side in ("inputs", "outputs")
        )
        explained = float(self.of(rows, inputs, outputs).sum())
        self.explained = explained / total
        """Share of the whole that the layers' own times explain."""
        self._scale = min(1.0, total / explained)
        volumes = np.array([layer.unit / math.prod(layer.kernel) for layer in layers])
        self._each = volumes * max(0.0, total - explained) / float(volumes @ outputs[:, 0])

    def of(self, rows: NDArray[np.int64], inputs: Floats, outputs: Floats) -> Floats:
        """See ``Resource``."""
        times = self._each[rows, None] * outputs
        for k, row in enumerate(rows.tolist()):
            if (grid := self._grids[row]) is not None:
                into, out, known, pad = grid
                found = _interpolate(into, out, known, pad, inputs[k], outputs[k])
                times[k] += self._scale * self.layers[row].calls * found
        return times


def grid_points(layer: LayerShape) -> tuple[list[int], list[int], dict[tuple[int, int], TimedLayer]]:
    """The widths at which ``layer`` is timed (inputs of one group, outputs), and what is timed at each pair."""
    into = [1] if layer.depthwise else knots(layer.inputs)
    out = knots(layer.outputs, 1 if layer.depthwise else layer.groups)
    linear = layer.size == (1, 1) and layer.kernel == (1, 1) and layer.unit == 1
    return into, out, {(i, o): timed_layer(layer, i, o, linear=linear) for i in into for o in out}


def _grid(layer: LayerShape, table: Table, pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, int]:
    into, out, points = grid_points(layer)
    times = np.array([[table[points[i, o]] for o in out] for i in into])
    return np.array(into), np.array(out), times, pad


def _interpolate(
    into: NDArray[np.int64], out: NDArray[np.int64], times: Floats, pad: int, inputs: Floats, outputs: Floats
) -> Floats:
    """Bilinear between the grid's points, at widths rounded up to the runtime's blocks."""
    low_in, share_in = _place(into, inputs, pad if len(into) > 1 else 1)
    low_out, share_out = _place(out, outputs, pad)
    high_in, high_out = np.minimum(low_in + 1, len(into) - 1), np.minimum(low_out + 1, len(out) - 1)
    near = times[low_in, low_out] * (1 - share_out) + times[low_in, high_out] * share_out
    far = times[high_in, low_out] * (1 - share_out) + times[high_in, high_out] * share_out
    result: Floats = near * (1 - share_in) + far * share_in
    return result


def _place(at: NDArray[np.int64], widths: Floats, pad: int) -> tuple[NDArray[np.int64], Floats]:
    """The knot below each width and the share of the way to the next."""
    padded = np.clip(np.ceil(widths / pad - 1e-9) * pad, at[0], at[-1])
    low = np.clip(np.searchsorted(at, padded, side="right") - 1, 0, max(0, len(at) - 2))
    if len(at) == 1:
        return low, np.zeros(len(widths))
    return low, (padded - at[low]) / (at[low + 1] - at[low])
