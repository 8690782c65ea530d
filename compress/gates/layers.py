"""What each convolution and linear layer costs: read once from a forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer. ``unit``: MACs per pair of an open input and an open output channel.

    ``unit`` = output pixels x kernel area, summed over calls; for a depthwise convolution, per channel.
    """

    name: str
    inputs: int
    outputs: int
    groups: int
    unit: int
    depthwise: bool

    @property
    def macs(self) -> int:
        """MACs of the layer as it is, for one image."""
        pairs = self.outputs if self.depthwise else self.inputs * self.outputs // self.groups
        return self.unit * pairs


@torch.no_grad()
def read_layers(network: nn.Module, example: Tensor) -> tuple[LayerShape, ...]:
    """The convolutions and linear layers that ``example`` (1, C, H, W) passes through, in definition order."""
    units: dict[str, int] = {}
    layers = {n: m for n, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}

    def count(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, _ConvNd):
                pixels = inputs[0] if module.transposed else output  # what the kernel is placed on
                area = pixels.shape[2:].numel() * math.prod(module.kernel_size)
            else:
                area = output[0].numel() // output.shape[-1]
            units[name] = units.get(name, 0) + area

        return hook

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        network(example)
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return tuple(_shape(name, layers[name], units[name]) for name in layers if name in units)


def _shape(name: str, layer: nn.Module, unit: int) -> LayerShape:
    if isinstance(layer, nn.Linear):
        return LayerShape(name, layer.in_features, layer.out_features, 1, unit, False)
    assert isinstance(layer, _ConvNd)
    depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    return LayerShape(name, layer.in_channels, layer.out_channels, layer.groups, unit, depthwise)
