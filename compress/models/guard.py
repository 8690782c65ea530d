"""Dispatch mode that watches one forward pass for what cannot be slimmed: branches on values, attention, randomness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import ModelError
from .user_code import calling_line

_PRODUCTS = ("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm", "addbmm")
"""Matrix products; their factors are the last two tensors that they are given."""

_ATTENTION = ("_native_multi_head_attention", "scaled_dot_product")
_BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")


class TraceGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: refuses data-dependent control flow and attention, which a trace cannot represent.

    Attention is a product of two activations. A product with weights, or with what is computed from weights alone, is a
    linear layer, however torch computes it: of maps (N, H, W, C) and tokens (N, L, C) as one of batched matrices.

    Attributes:
        random: the lines that drew random numbers, in order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random: list[str] = []
        # Storages, which views share. They are kept: the address of one that is gone may be given again.
        self._weights = {_address(t): t for t in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise ModelError(
                f"the model turns a tensor into a Python value ({calling_line()}), so what it computes can depend on "
                "the image: only models that compute the same layers for every image can be slimmed"
            )
        inputs = list(_tensors((args, kwargs)))
        product = name in _PRODUCTS and not any(map(self._is_weight, inputs[-2:]))
        if product or any(kind in name for kind in _ATTENTION):
            raise ModelError(
                f"the model multiplies activations with each other, as attention does ({calling_line()}): only "
                "convolutional networks can be slimmed"
            )
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random.append(calling_line())
        of_weights = name in _BLANK or all(map(self._is_weight, inputs))
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if of_weights:
                self._weights[_address(tensor)] = tensor
            else:
                self._weights.pop(_address(tensor), None)  # activations were written into a buffer
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        return _address(tensor) in self._weights


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
