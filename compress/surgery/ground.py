"""Where Torch-Pruning's dependency graph stops: operators whose index maps it does not follow, several outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..modes import eval_mode
from ..outputs import name_tensors
from .groups import View, is_frozen_norm

_STOPS = (
    *("split", "split_with_sizes", "unbind", "bmm", "baddbmm", "roll", "channel_shuffle", "native_channel_shuffle"),
    *("pixel_shuffle", "pixel_unshuffle", "glu", "flip", "repeat", "im2col", "sort"),
)
_RESHAPES = ("view", "_unsafe_view", "reshape")
_ALONG = ("slice", "select", "index_select")
_CHANNELS = 1
_MAPS = 4


def stops_torch_pruning(network: nn.Module, example: Tensor, *, prefix: str = "", view: View | None = None) -> bool:
    """Whether ``network`` has to be followed by index maps: it runs once, in eval mode, on ``example`` (1, C, H, W).

    Args:
        prefix: operators outside of it are the explainer's, which Torch-Pruning follows.
        view: see ``View``; with one the network is joined with an explainer.
    """
    if any(map(is_frozen_norm, network.modules())):
        return True
    inner = network.get_submodule(prefix.removesuffix(".")) if prefix else network
    watch = _Operators()
    handles = []
    for module in inner.modules():
        handles += [
            module.register_forward_pre_hook(watch.enter),
            module.register_forward_hook(watch.leave, always_call=True),
        ]
    try:
        with eval_mode(network), torch.no_grad(), watch:
            outputs = network(example)
    finally:
        for handle in handles:
            handle.remove()
    several = view is None and [tensor.dim() for tensor in name_tensors(outputs).values()] != [2]
    return watch.found or several


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Context: notes whether an operator runs that stops Torch-Pruning."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.found = False
        self.running: list[nn.Module] = []

    def enter(self, module: nn.Module, _args: Any) -> None:
        self.running.append(module)

    def leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self.running.pop()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.running and not isinstance(self.running[-1], nn.Linear):
            self.found = self.found or _stops(func.overloadpacket.__name__, args, result)
        return result


def _stops(name: str, args: Sequence[Any], result: Any) -> bool:
    if name in _STOPS or "scaled_dot_product" in name:
        return True
    if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
        return False
    if name in _RESHAPES:  # groups of channels, heads, windows
        return result.dim() > _MAPS
    if name not in _ALONG or len(args) < 2 or args[0].dim() < _CHANNELS + 1:
        return False
    cuts = result.dim() < args[0].dim() or result.shape[_CHANNELS] != args[0].shape[_CHANNELS]
    return bool(args[1] % args[0].dim() == _CHANNELS and cuts)
