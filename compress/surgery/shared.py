"""Layers whose parameters something else computes with too: cut in one place, they would no longer be the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..modes import eval_mode


def shared_layers(network: nn.Module, example: Tensor) -> dict[str, str]:
    """By name, the layers that share a parameter, and with what.

    Shared are a parameter that two modules have (tied weights), and one that is used outside of its module, such as
    ``F.linear(x, self.embed.weight)``. A module that is called twice is not here.

    Args:
        example: (N, C, H, W) images, on which the network runs once in eval mode.
    """
    owners: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, module in network.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners[id(parameter)].append((name, key))
    found: dict[str, str] = {}
    for owned in owners.values():
        for (name, key), (other, _) in zip(owned, owned[1:] + owned[:1], strict=True):
            if len(owned) > 1:
                with_whom = f"'{other}'" if other else "an attribute of the model itself"
                found[name] = f"'{name}' shares its {key} with {with_whom}"
    for name, reason in _used_outside(network, example).items():
        found.setdefault(name, reason)
    return found


def _used_outside(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Layers whose parameters are read while another module computes."""
    reads = _Reads(network)

    def enter(module: nn.Module, _args: Any) -> None:
        reads.running.append(module)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        reads.running.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        with eval_mode(network), torch.no_grad(), reads:
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return reads.outside


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: notes parameters that are read while neither their module nor a part of it runs.

    ``running``: the modules that compute, the innermost last.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[nn.Module] = []
        self.outside: dict[str, str] = {}
        self._names = {module: name for name, module in network.named_modules()}
        self._owners: dict[int, tuple[nn.Module, str]] = {
            id(parameter): (module, key)
            for module in network.modules()
            for key, parameter in module._parameters.items()
            if parameter is not None
        }

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            owner, key = self._owners.get(id(leaf), (None, ""))
            if owner is not None and owner not in self.running:
                name = self._names[owner]
                user = self._names.get(self.running[-1], "") if self.running else ""
                where = f"in '{user}'" if user else "in the model's forward()"
                self.outside[name] = f"the {key} of '{name}' is used outside of it, {where}"
        return func(*args, **(kwargs or {}))
