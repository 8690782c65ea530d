"""Copies and stored tensors of networks, also of those that keep activations or state that is no tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


class _Detached(TorchFunctionMode):
    """Context: a tensor that was computed under autograd is copied without its history, which torch refuses to copy."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            source, memo = args
            memo[id(source)] = source.detach().clone()
            return memo[id(source)]
        return function(*args, **(kwargs or {}))


def copy_of(value: T, memo: dict[int, Any] | None = None) -> T:
    """A deep copy of a network or a part of it; kept activations (Grad-CAM) lose their history.

    Args:
        memo: copies that exist already, by the id of what they copy (as for ``copy.deepcopy``).
    """
    with _Detached():
        return copy.deepcopy(value, memo)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state of ``module``, by name, without extra state of other types (``get_extra_state``)."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def load_tensors_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load ``tensors`` into ``module``, all of them and no others; its extra state that is no tensor stays.

    Raises:
        RuntimeError: a tensor is missing, has another shape, or is not one of the module's.
    """
    extra = {name: value for name, value in module.state_dict().items() if not isinstance(value, Tensor)}
    module.load_state_dict({**extra, **tensors})


def to_precision_(module: N, dtype: torch.dtype) -> N:
    """Convert ``module`` to the floating point ``dtype``, plain tensors among its attributes included."""

    def converted(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    for each in module.modules():
        for name, value in vars(each).items():
            if name not in ("_parameters", "_buffers", "_modules") and isinstance(value, Tensor | list | tuple | dict):
                vars(each)[name] = tree_map(converted, value)
    return module.to(dtype)
