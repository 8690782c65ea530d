"""Several inputs of a network as one tensor: packed side by side for all that takes one tensor of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError

Example = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a network takes: images (N, C, H, W), or several tensors with a row for each image, by place or by keyword."""

MOST_CHANNELS = 16
_IMAGES = 4
_TAKES = "give images (N, C, H, W), or several tensors with a row for each image as a tuple or a dict, floating point"


def check_example(example: Any) -> Example:
    """``example`` if it is one, lists as tuples.

    Raises:
        ModelError: it is something else; the message says what.
    """
    if isinstance(example, Tensor):
        _check_images(example)
        return example
    if isinstance(example, Mapping):
        named = {str(key): value for key, value in example.items()}
    elif isinstance(example, tuple | list):
        named = {f"number {place + 1}": value for place, value in enumerate(example)}
    else:
        raise ModelError(f"the example is a {type(example).__name__}, no torch tensor; {_TAKES}")
    if not named:
        raise ModelError(f"the example is an empty {type(example).__name__}; {_TAKES}")
    rows = 0
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"input {name} of the example is a {type(value).__name__}, no torch tensor; {_TAKES}")
        if not value.is_floating_point() or value.dim() < 2 or not len(value):
            raise ModelError(
                f"input {name} of the example is {tuple(value.shape)} {value.dtype}; {_TAKES} (numbers of other types "
                "can be kept in a module that wraps the model)"
            )
        rows = rows or len(value)
        if len(value) != rows:
            raise ModelError(f"input {name} of the example has {len(value)} rows and the first one {rows}; {_TAKES}")
    return named if isinstance(example, Mapping) else tuple(named.values())


def _check_images(example: Tensor) -> None:
    if example.dim() != _IMAGES or not example.is_floating_point() or not len(example):
        raise ModelError(
            f"the example is {tuple(example.shape)} {example.dtype}; give a few images as the model takes them: "
            f"(N, C, H, W), floating point, with 1 to {MOST_CHANNELS} channels"
        )
    if not 1 <= example.shape[1] <= MOST_CHANNELS:
        last = ", channels last: permute(0, 3, 1, 2) them" if example.shape[-1] <= MOST_CHANNELS else ""
        raise ModelError(
            f"the example is {tuple(example.shape)}, images of {example.shape[1]} channels{last}; allowed: 1 to "
            f"{MOST_CHANNELS} channels"
        )


def first_rows(example: Example, count: int) -> Example:
    """The first ``count`` rows of every input, on the CPU, in float32."""
    if isinstance(example, Tensor):
        return example[:count].detach().cpu().float()
    if isinstance(example, dict):
        return {name: value[:count].detach().cpu().float() for name, value in example.items()}
    return tuple(value[:count].detach().cpu().float() for value in example)


def as_arguments(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword arguments of ``forward``."""
    if isinstance(example, dict):
        return (), example
    return (example,) if isinstance(example, Tensor) else example, {}


@dataclass(frozen=True)
class Packing:
    """Shapes of several inputs, without their first dimension, and their keywords (None: by place).

    As a forward pre-hook of a network it takes a packed tensor (N, numbers) apart: the network takes one tensor.
    """

    shapes: tuple[tuple[int, ...], ...]
    keywords: tuple[str, ...] | None

    @classmethod
    def of(cls, example: Example) -> Packing:
        """The packing of several inputs."""
        assert not isinstance(example, Tensor)
        if isinstance(example, dict):
            return cls(tuple(tuple(value.shape[1:]) for value in example.values()), tuple(example))
        return cls(tuple(tuple(value.shape[1:]) for value in example), None)

    def pack(self, example: Example) -> Tensor:
        """(N, numbers) all inputs side by side."""
        assert not isinstance(example, Tensor)
        values = example.values() if isinstance(example, dict) else example
        return torch.cat([value.flatten(1) for value in values], 1)

    def unpack(self, packed: Tensor) -> Example:
        """The inputs, views of ``packed``."""
        values, start = [], 0
        for shape in self.shapes:
            end = start + math.prod(shape)
            values.append(packed[:, start:end].reshape(-1, *shape))
            start = end
        return tuple(values) if self.keywords is None else dict(zip(self.keywords, values, strict=True))

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        """The hook (``register_forward_pre_hook(packing, with_kwargs=True)``)."""
        return as_arguments(self.unpack(args[0]))

    def attach_(self, network: nn.Module) -> nn.Module:
        """Let ``network`` take packed tensors."""
        network.register_forward_pre_hook(self, with_kwargs=True)
        return network

    def detach_(self, network: nn.Module) -> nn.Module:
        """Let ``network`` take its own inputs again."""
        for key, hook in list(network._forward_pre_hooks.items()):
            if isinstance(hook, Packing):
                del network._forward_pre_hooks[key]
                network._forward_pre_hooks_with_kwargs.pop(key, None)
        return network
