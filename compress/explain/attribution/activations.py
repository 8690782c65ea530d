"""Intercept the activation functions of any network as it runs, modules and functions alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ReplaceOutput = Callable[[int, Tensor], Tensor]

_RELU_NAMES = ("relu", "relu6")
_OTHER_NAMES = (
    *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "silu", "mish", "gelu", "hardswish"),
    *("hardtanh", "softplus", "tanh", "sigmoid", "hardsigmoid", "softsign"),
)


def _spellings(names: Sequence[str]) -> dict[Any, int | None]:
    """All functions called ``names``, with the index of their argument ``inplace`` where they have it."""
    functions: dict[Any, int | None] = {}
    for name in names:
        for spelling in (name, f"{name}_"):
            for owner in (F, torch, Tensor):
                function = getattr(owner, spelling, None)
                if function is not None:
                    functions[function] = _inplace_index(function)
    return functions


def _inplace_index(function: Callable[..., Tensor]) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # built in, without a signature: an in-place one has a trailing underscore
        return None
    return names.index("inplace") if "inplace" in names else None


RELUS = _spellings(_RELU_NAMES)
ACTIVATIONS = RELUS | _spellings(_OTHER_NAMES)


class ReplacedActivations(TorchFunctionMode):
    """Context that replaces the output of every activation function by ``change(index, output)``, in order of calls.

    Works below modules: ``nn.ReLU``, ``F.relu``, ``x.relu_()`` and a module that is used twice are all intercepted,
    call by call. In-place calls write the replacement to their input. Applies to this thread only; compiled and
    scripted code is not intercepted.

    Args:
        change: given the number of the call within the block and its output, which nothing else refers to.
        functions: ``ACTIVATIONS`` or ``RELUS``.
        spatial: only feature maps: outputs (N, C, H, W) of more than one pixel. Excludes fully connected layers and
            the inside of squeeze-and-excitation.
    """

    def __init__(
        self, change: ReplaceOutput, functions: Mapping[Any, int | None] = ACTIVATIONS, *, spatial: bool
    ) -> None:
        super().__init__()
        self.change = change
        self.functions = functions
        self.spatial = spatial
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self.functions:
            return func(*args, **kwargs)
        # Torch disables the mode while this runs, so that an activation is not intercepted again from inside.
        given = args[0] if args else kwargs["input"]
        inplace = self._is_inplace(func, args, kwargs)
        # An in-place result is its input: changing it again would change what autograd has saved.
        source = given.clone() if inplace else given
        output = func(source, *args[1:], **kwargs) if args else func(**{**kwargs, "input": source})
        if not self.spatial or (output.dim() == 4 and output.shape[2] * output.shape[3] > 1):
            output = self.change(self.calls, output)
            self.calls += 1
        return given.copy_(output) if inplace else output

    def _is_inplace(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        index = self.functions[func]
        if index is None:
            return str(func.__name__).endswith("_")
        return bool(args[index] if len(args) > index else kwargs.get("inplace", False))
