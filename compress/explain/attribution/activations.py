"""Reach every activation of a network as it is computed, however its author wrote it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Change = Callable[[int, Tensor], Tensor]

_RELUS = ("relu", "relu6")
_OTHERS = (
    *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "silu", "mish", "gelu", "hardswish"),
    *("hardtanh", "softplus", "tanh", "sigmoid", "hardsigmoid", "softsign"),
)


def _functions(names: Sequence[str]) -> dict[Any, int | None]:
    """All spellings of ``names``, with the place of the argument ``inplace`` where they have it."""
    found: dict[Any, int | None] = {}
    for name in names:
        for spelling in (name, f"{name}_"):
            for owner in (F, torch, Tensor):
                function = getattr(owner, spelling, None)
                if function is not None:
                    found[function] = _place_of_inplace(function)
    return found


def _place_of_inplace(function: Callable[..., Tensor]) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # built in, without a signature: those say it by their name
        return None
    return names.index("inplace") if "inplace" in names else None


RELUS = _functions(_RELUS)
ACTIVATIONS = RELUS | _functions(_OTHERS)


class EachActivation(TorchFunctionMode):
    """Context: what an activation function gives is replaced by ``change(index, output)``, in order of the calls.

    Works below modules: ``nn.ReLU``, ``F.relu``, ``x.relu_()`` and a module that is used twice are all seen, call by
    call. In-place calls change their input as before, but to the replacement. Holds for this thread only. Code that
    torch has compiled or scripted is not seen.

    Args:
        change: given the number of the call within the block and its output, which nothing else refers to.
        functions: ``ACTIVATIONS`` or ``RELUS``.
        spatial: only feature maps: outputs (N, C, H, W) of more than one pixel. Leaves out fully connected layers
            and the inside of squeeze-and-excitation.
    """

    def __init__(self, change: Change, functions: Mapping[Any, int | None] = ACTIVATIONS, *, spatial: bool) -> None:
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
        # Torch takes the mode off while this runs, so that an activation is not seen again from inside.
        given = args[0] if args else kwargs["input"]
        inplace = self._is_inplace(func, args, kwargs)
        # An in-place result is its input: changing it once more would change what autograd has kept of it.
        source = given.clone() if inplace else given
        output = func(source, *args[1:], **kwargs) if args else func(**{**kwargs, "input": source})
        if not self.spatial or (output.dim() == 4 and output.shape[2] * output.shape[3] > 1):
            output = self.change(self.calls, output)
            self.calls += 1
        return given.copy_(output) if inplace else output

    def _is_inplace(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        place = self.functions[func]
        if place is None:
            return str(func.__name__).endswith("_")
        return bool(args[place] if len(args) > place else kwargs.get("inplace", False))
