"""Shapes and costs of a network's layers, read from one forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..modes import eval_mode


@dataclass(frozen=True)
class LayerShape:
    """Shape and costs of a convolution, a linear layer, or a layer with channels between them (``unit`` 0).

    ``inputs`` counts the channels that each filter reads (all inputs / groups). Costs as functions of channels:
    MACs = ``unit`` x inputs x outputs; parameters = ``area`` x inputs x outputs + ``each`` x outputs;
    bytes in the same form, by ``area_bytes`` and ``each_bytes`` (they count buffers too).

    ``unit`` = output pixels x kernel area, summed over calls. ``size``: (H, W) of the first call's input; ``padding``:
    pixels before H, before W, after H, after W. Layers without kernels have those of a 1x1 convolution.
    """

    name: str
    inputs: int
    outputs: int
    groups: int = 1
    unit: int = 0
    area: int = 0
    each: int = 0
    area_bytes: int = 0
    each_bytes: int = 0
    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0, 0, 0)
    dilation: tuple[int, ...] = (1, 1)
    transposed: bool = False
    size: tuple[int, ...] = (1, 1)
    calls: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether every filter of a convolution reads one channel."""
        return self.groups > 1 and self.inputs == 1

    @property
    def macs(self) -> int:
        """MACs of the layer as it is, for one image."""
        return self.unit * self.inputs * self.outputs


@torch.no_grad()
def read_layers(network: nn.Module, example: Tensor, followers: Iterable[str] = ()) -> tuple[LayerShape, ...]:
    """Shapes of the convolutions and linear layers that run on ``example`` (N, C, H, W), and of ``followers``.

    In definition order. A follower is a layer that treats channels one by one: normalisation, PReLU.
    """
    units: Counter[str] = Counter()
    sizes: dict[str, tuple[int, ...]] = {}
    calls: Counter[str] = Counter()
    layers = {n: m for n, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Any], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], keywords: dict[str, Any], output: Tensor) -> None:
            if isinstance(module, _ConvNd):
                given = args[0] if args else keywords["input"]
                pixels = given if module.transposed else output  # the kernel is applied once per pixel of it
                area = len(pixels) * pixels.shape[2:].numel() * math.prod(module.kernel_size)
                sizes.setdefault(name, tuple(given.shape[2:]))
            else:
                area = output.numel() // output.shape[-1]
            # All rows count: a network may have folded windows of an image into the batch.
            units[name] += area // len(example)
            calls[name] += 1

        return hook

    handles = [layer.register_forward_hook(count(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with eval_mode(network):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    stored = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    follower_names = set(followers)
    shapes = []
    for name, module in network.named_modules():
        copies = stored[id(module)]  # a module under two names is stored twice, though its parameters count once
        if name in units:
            size = sizes.get(name, (1, 1))
            shapes.append(_conv_or_linear_shape(name, module, units[name], size, calls[name], copies))
        elif name in follower_names and name not in layers:
            shapes.append(_channelwise_shape(name, module, copies))
    return tuple(shapes)


def _conv_or_linear_shape(
    name: str, layer: nn.Module, unit: int, size: tuple[int, ...], calls: int, copies: int
) -> LayerShape:
    assert isinstance(layer, _ConvNd | nn.Linear)
    outputs = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    inputs = (layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features) // groups
    area = layer.weight.numel() // (inputs * outputs)
    bias = 0 if layer.bias is None else 1
    geometry = {} if isinstance(layer, nn.Linear) else _kernel_geometry(layer)
    return LayerShape(
        name,
        inputs,
        outputs,
        groups,
        unit,
        area=area,
        each=bias,
        area_bytes=area * layer.weight.element_size() * copies,
        each_bytes=0 if layer.bias is None else layer.bias.element_size() * copies,
        size=size,
        calls=calls,
        **geometry,
    )


def _kernel_geometry(layer: _ConvNd) -> dict[str, Any]:
    """Kernel, stride, padding and dilation of a convolution, as fields of ``LayerShape``."""
    before: tuple[int, ...]
    if layer.padding == "same":
        total = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        before = tuple(pixels // 2 for pixels in total)
        after = tuple(pixels - pixels // 2 for pixels in total)  # PyTorch pads the odd pixel after
    else:
        before = after = (0,) * len(layer.kernel_size) if layer.padding == "valid" else tuple(map(int, layer.padding))
    return {
        "kernel": tuple(layer.kernel_size),
        "stride": tuple(layer.stride),
        "padding": before + after,
        "dilation": tuple(layer.dilation),
        "transposed": layer.transposed,
    }


def _channelwise_shape(name: str, layer: nn.Module, copies: int) -> LayerShape:
    """Shape of a layer whose tensors have their channels in the first dimension (normalisation, PReLU)."""
    parameters = [p for p in layer.parameters(recurse=False) if p.dim()]
    buffers = [b for b in layer.buffers(recurse=False) if b.dim()]
    width = max((len(tensor) for tensor in (*parameters, *buffers)), default=0)
    channels = [t for t in (*parameters, *buffers) if len(t) == width]
    each = sum(p.numel() // width for p in parameters if len(p) == width)
    each_bytes = sum(t.numel() // width * t.element_size() for t in channels) * copies
    return LayerShape(name, 1, width, each=each, each_bytes=each_bytes)
