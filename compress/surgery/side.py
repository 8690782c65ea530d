"""The smallest images on which a proof of channel groups says what it would say on the given ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..modes import eval_mode
from .graph import trace_groups
from .groups import ChannelGraph, View

SIDES = (48, 64, 96, 128, 160)
"""Sides (pixels) that are tried in place of larger ones."""

_WORTHWHILE = 1.3
_MAPS = 4
# Their sizes are pixels: what they do to channels shows in the shape that they return.
_SIZED = (
    "view",
    "_unsafe_view",
    "reshape",
    "expand",
    "avg_pool2d",
    "_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "max_pool2d_with_indices",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_nearest_exact2d",
)
_CUTS = ("slice", "select", "narrow")


@dataclass(frozen=True)
class Operator:
    """An operator that a network ran: its arguments without tensors, the shapes of its inputs and of its results.

    ``read``: which tensors its inputs are: names of parameters and buffers, and numbers of earlier results.
    ``gradients``: whether autograd recorded it.
    """

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[tuple[int, ...], ...]
    results: tuple[tuple[int, ...], ...]
    read: tuple[str | int, ...]
    gradients: bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: keeps every operator of ATen in ``operators``, in the order in which they run."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        named = (*network.named_parameters(), *network.named_buffers())
        self._known: dict[int, str | int] = {id(tensor): name for name, tensor in named}
        self._alive: list[Tensor] = []  # else the number of a tensor that is gone may be given again

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = _shapes((args, kwargs))
        read = tuple(map(self._number, _tensors((args, kwargs))))
        result = func(*args, **(kwargs or {}))
        plain = tree_map_only(Tensor, lambda _: "tensor", (tuple(args), tuple(sorted((kwargs or {}).items()))))
        name = func.overloadpacket.__name__
        self.operators.append(Operator(name, plain, inputs, _shapes(result), read, torch.is_grad_enabled()))
        for tensor in _tensors(result):
            self._number(tensor)
        return result

    def _number(self, tensor: Tensor) -> str | int:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = len(self._alive)
            self._alive.append(tensor)
        return self._known[id(tensor)]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in _tensors(value))


def record_operators(network: nn.Module, images: Tensor, *, gradients: bool = False) -> list[Operator]:
    """The operators that ``network`` runs on ``images`` in eval mode, in order, with autograd recording or not."""
    recorder = _Recorder(network)
    with eval_mode(network), torch.set_grad_enabled(gradients), recorder:
        network(images)
    return recorder.operators


def count_reads(network: nn.Module, images: Tensor) -> Counter[str]:
    """How often each parameter is read in a pass over ``images`` (N, C, H, W), in the present modes."""
    recorder = _Recorder(network)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
        network(images)
    names = {name for name, _ in network.named_parameters()}
    return Counter(str(name) for operator in recorder.operators for name in operator.read if name in names)


def same_on_channels(large: Sequence[Operator], small: Sequence[Operator]) -> bool:
    """Whether a network does the same to channels for images of two sizes.

    It does if it runs the same operators in the same order with the same arguments but for numbers of pixels, and if
    their results differ in the last two dimensions only, never in the batch or in the channels: a flatten of maps
    into a vector does, and so do maps whose channels come last. No map shrinks to a single pixel that was larger: a
    softmax or a norm over one pixel would hide the channels before it.
    """
    return len(large) == len(small) and all(map(_same_on_channels, large, small))


def _same_on_channels(large: Operator, small: Operator) -> bool:
    if large.name != small.name or len(large.results) != len(small.results) or len(large.inputs) != len(small.inputs):
        return False
    if not all(map(_same_channels, large.results, small.results)):
        return False
    if large.arguments == small.arguments or large.name in _SIZED:
        return True
    if large.name == "constant_pad_nd":  # pads of W and H come first, those of channels after them
        return bool(large.arguments[0][1][4:] == small.arguments[0][1][4:])
    if large.name in _CUTS:
        (_, axis, *_), (_, other, *_) = large.arguments[0], small.arguments[0]
        return bool(axis == other and axis % len(large.inputs[0]) > 1)
    return False


def _same_channels(large: tuple[int, ...], small: tuple[int, ...]) -> bool:
    """Whether two shapes differ in their last two dimensions only, behind batch and channels, and in none by one."""
    if len(large) != len(small):
        return False
    pixels = range(max(2, len(large) - 2), len(large))
    return all(
        ours == theirs or (place in pixels and min(ours, theirs) > 1)
        for place, (ours, theirs) in enumerate(zip(large, small, strict=True))
    )


def small_images(
    network: nn.Module, graph: ChannelGraph, images: Tensor, *, prefix: str = "", view: View | None = None
) -> Tensor:
    """``images`` (N, C, H, W) at the smallest of ``SIDES`` on which a proof of ``graph`` is one for their own size.

    What closing and removing channels computes depends on how operators treat channels. Where those are the same
    (``same_on_channels``), and Torch-Pruning reads the same ``graph`` with every position of every layer, a proof on
    small images is the same proof with fewer pixels. Where they are not (a linear layer behind flattened maps, a
    forward() that branches on the size, a network that does not take the side) the images stay as they are.
    """
    if images.dim() != _MAPS:
        return images
    height, width = images.shape[-2:]
    sizes = [(min(height, side), min(width, side)) for side in SIDES if side * _WORTHWHILE < max(height, width)]
    if not sizes:
        return images
    own = record_operators(network, images)
    for size in sizes:
        small = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        try:
            if not same_on_channels(own, record_operators(network, small)):
                continue
            if trace_groups(network, small[:1], prefix=prefix, view=view) == graph:
                return small
        except Exception:  # noqa: BLE001 - a forward() may raise anything: it does not take this side
            continue
    return images
