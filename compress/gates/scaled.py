"""Gates at no cost per pixel: consumers carry them in their weights, and the gradient is read where they read.

y = conv(x, W v) is conv(x v, W): no activation is multiplied. With u = dL/d(x v), dL/dx = u v and dL/dv = <x, u>, so
dL/d(log v) = v <x, u> = <x, dL/dx>: what backward computes anyway, times what the layer before has kept anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..surgery import ChannelGroup


class _Tap(torch.autograd.Function):
    """The identity of ``images``; its gradient is also the gradient of the log-factors of their channels."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, logs: Tensor, last: bool) -> Tensor:
        del logs
        ctx.save_for_backward(images)
        ctx.last = last
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (images,), (grad,) = ctx.saved_tensors, grads
        channel = images.dim() - 1 if ctx.last else 1
        others = [dim for dim in range(images.dim()) if dim != channel]
        products = images * grad
        return grad, products.sum(others, dtype=torch.promote_types(products.dtype, torch.float32)), None


class Dial:
    """Factors of this step, one for every input channel of every gated layer (positions,), and their logarithms."""

    def __init__(self) -> None:
        self.factors: Tensor | None = None
        self.logs: Tensor | None = None


@dataclass(frozen=True)
class _Site:
    """Where a layer finds its factors on the dial."""

    dial: Dial
    start: int
    stop: int

    def read(self, images: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """``images``, tapped, and the factors (channels,) that are still to be applied."""
        assert self.dial.factors is not None
        assert self.dial.logs is not None
        logs = self.dial.logs[self.start : self.stop]
        return cast(Tensor, _Tap.apply(images, logs, last)), self.dial.factors[self.start : self.stop]


class ScaledConv2d(nn.Conv2d):
    """A convolution whose input channels are gated."""

    site: _Site

    def forward(self, input: Tensor) -> Tensor:
        images, factors = self.site.read(input, last=False)
        weight = self.weight
        if weight.numel() > images.numel():
            images = images * factors.to(images.dtype).view(-1, 1, 1)
        elif self.groups == 1:
            weight = weight * factors.view(-1, 1, 1)
        else:
            by_group = weight.view(self.groups, -1, *weight.shape[1:])
            weight = (by_group * factors.view(self.groups, 1, -1, 1, 1)).flatten(0, 1)
        output: Tensor = self._conv_forward(images, weight, self.bias)
        return output


class ScaledLinear(nn.Linear):
    """A linear layer whose input channels are gated."""

    site: _Site

    def forward(self, input: Tensor) -> Tensor:
        images, factors = self.site.read(input, last=True)
        if self.weight.numel() > images.numel():  # wide layers at the end of a VGG: the few vectors are smaller
            return F.linear(images * factors.to(images.dtype), self.weight, self.bias)
        return F.linear(images, self.weight * factors, self.bias)


_SCALED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: ScaledConv2d, nn.Linear: ScaledLinear}


def _multiply(site: _Site, *, last: bool) -> Any:
    """The gate of any other layer (a subclass with a forward of its own): its input is multiplied."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, factors = site.read(inputs[0], last=last)
        shape = (-1,) if last else (-1, *[1] * (images.dim() - 2))
        return (images * factors.to(images.dtype).view(shape), *inputs[1:])

    return hook


def scale_(network: nn.Module, groups: Sequence[ChannelGroup]) -> tuple[Dial, Tensor]:
    """Give every consumer of ``groups`` its place on a dial.

    Returns:
        The dial; and for each of its positions (positions,) int64 the channel whose gate it takes, counted over all
        groups in their order; the number of all channels where a layer reads something that belongs to no group.
    """
    modules = dict(network.named_modules())
    channels = sum(group.channels for group in groups)
    sources: dict[str, Tensor] = {}
    first = 0
    for group in groups:
        for slot in group.consumers:
            layer = modules[slot.layer]
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            assert isinstance(width, int)
            source = sources.setdefault(slot.layer, torch.full((width,), channels))
            source[list(slot.positions)] = torch.tensor(slot.sources) + first
        first += group.channels
    dial, start = Dial(), 0
    for name, source in sources.items():
        layer, stop = modules[name], start + len(source)
        site = _Site(dial, start, stop)
        if type(layer) in _SCALED:
            layer.__class__ = _SCALED[type(layer)]
            layer.site = site
        else:
            layer.register_forward_pre_hook(_multiply(site, last=isinstance(layer, nn.Linear)))
        start = stop
    return dial, torch.cat([*sources.values(), torch.empty(0, dtype=torch.int64)])
