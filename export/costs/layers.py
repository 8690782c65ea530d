"""What a model costs, layer by layer, whatever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, replace

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class LayerCost:
    """A convolution or linear layer: what it costs for one image, and what that is made of.

    macs = ``outputs`` * ``inputs`` / ``groups`` * ``kernel`` * ``positions``: channels, elements of a kernel, and how
    often the kernel is applied (pixels of the output; of all calls where a layer is called more than once).
    ``reads``: pixels of the input, so that a new stride can be told from a larger input.
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

    def joined(self, again: LayerCost) -> LayerCost:
        """One layer that is called again."""
        return replace(
            self,
            macs=self.macs + again.macs,
            positions=self.positions + again.positions,
            reads=self.reads + again.reads,
        )

    def per_image(self, batch: int) -> LayerCost:
        """What of a call with ``batch`` images is one image's."""
        if batch == 1:
            return self
        return replace(
            self,
            macs=self.macs // batch,
            positions=max(1, self.positions // batch),
            reads=max(1, self.reads // batch),
        )


@dataclass(frozen=True)
class ModelCost:
    """MACs of one image (convolutions and linear layers, as ``slimsight.compress.macs``), parameters, and the layers.

    ``image``: (C, H, W) that MACs were counted for.
    """

    macs: int
    params: int
    layers: tuple[LayerCost, ...]
    image: Shape
