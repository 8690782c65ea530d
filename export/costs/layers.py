"""The cost of a model by layer (MACs, parameters), whatever format it was read from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class LayerCost:
    """The cost of a convolution or linear layer for one image, with the factors of its MACs.

    macs = ``outputs`` * ``inputs`` / ``groups`` * ``kernel`` * ``positions``: channels, elements of a kernel, and how
    often the kernel is applied (pixels of the output; the sum over all calls of the layer).
    ``reads``: pixels of the input, which distinguishes a new stride from a larger input.
    """

    name: str
    macs: int
    params: int
    inputs: int
    outputs: int
    groups: int = 1
    kernel: int = 1
    positions: int = 1
    reads: int = 1

    def add_call(self, call: LayerCost) -> LayerCost:
        """The cost with another call of the same layer added."""
        return replace(
            self,
            macs=self.macs + call.macs,
            positions=self.positions + call.positions,
            reads=self.reads + call.reads,
        )

    def per_image(self, batch: int) -> LayerCost:
        """The cost of one image, from that of a call with ``batch`` images."""
        if batch == 1:
            return self
        return replace(
            self,
            macs=self.macs // batch,
            positions=max(1, self.positions // batch),
            reads=max(1, self.reads // batch),
        )


def merge_calls(calls: Iterable[LayerCost], batch: int) -> tuple[LayerCost, ...]:
    """The layers for one image, in order of their first call, from all calls of layers for ``batch`` images."""
    layers: dict[str, LayerCost] = {}
    for call in calls:
        layer = layers.get(call.name)
        layers[call.name] = call if layer is None else layer.add_call(call)
    return tuple(layer.per_image(batch) for layer in layers.values())


@dataclass(frozen=True)
class ModelCost:
    """MACs of one image (convolutions and linear layers, as ``slimsight.compress.macs``), parameters, and layers.

    ``image``: the (C, H, W) that MACs were counted for.
    """

    macs: int
    params: int
    layers: tuple[LayerCost, ...]
    image: Shape
