"""What each convolution and linear layer costs: read once from a forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}

    def count(name: str) -> object:
        def hook(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                area = output.shape[2] * output.shape[3] * module.kernel_size[0] * module.kernel_size[1]
            else:
                area = output[0].numel() // output.shape[-1]
            units[name] = units.get(name, 0) + area

        return hook

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    training = network.training
    network.eval()
    try:
        network(example)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return tuple(_shape(name, layers[name], units[name]) for name in layers if name in units)


def _shape(name: str, layer: nn.Module, unit: int) -> LayerShape:
    if isinstance(layer, nn.Linear):
        return LayerShape(name, layer.in_features, layer.out_features, 1, unit, False)
    assert isinstance(layer, nn.Conv2d)
    depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    return LayerShape(name, layer.in_channels, layer.out_channels, layer.groups, unit, depthwise)
