"""Modes of work as contexts, restored afterwards: eval mode of a network, one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context: eval mode; afterwards each module is back in its own mode (frozen BN layers may differ)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def training_structure(model: nn.Module) -> Iterator[None]:
    """Context: training mode for what a model decides by it, eval mode for normalisation, dropout and all of torch.nn.

    So the layers of training run (auxiliary heads), without statistics that change and without randomness of dropout.
    Afterwards each module is back in its own mode.
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        own = type(module).__module__.startswith("torch.nn.") or isinstance(module, _NormBase | _DropoutNd)
        module.training = not own
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def one_thread() -> Iterator[None]:
    """Context: torch computes in one thread.

    For few or small images: threads gain little there, and on a busy machine they burn time waiting for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def double_precision() -> Iterator[None]:
    """Context: what asks torch for single precision gets double: new tensors, ``.float()``, ``dtype=torch.float32``.

    So a network in float64 whose forward() fixes a precision computes in float64, too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


class _Doubled(TorchFunctionMode):
    """Context: replaces float32 by float64 in calls of torch's functions."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if function is Tensor.float:
            function = Tensor.double
        wide = {torch.float32: torch.float64}
        arguments = [wide.get(value, value) if isinstance(value, torch.dtype) else value for value in args]
        options = {
            name: wide.get(value, value) if isinstance(value, torch.dtype) else value
            for name, value in (kwargs or {}).items()
        }
        return function(*arguments, **options)
