"""Dispatch mode that knows which tensors are activations, computed from the images, and which are weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import ModelError

PRODUCTS = ("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm", "addbmm")
"""Matrix products of ATen; their factors are the last two tensors that they are given."""

_BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")


class WeightsMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: calls ``before`` and ``after`` around every operator of ATen and keeps track of what each tensor is.

    Activations are the images and all that operators compute from them. Blank are tensors made of nothing
    (``torch.zeros``) and what is computed from such. All others are weights: parameters, buffers, tensors that are
    neither (attributes, globals, literals), and what operators compute from weights alone.

    Raises:
        ModelError: an operator of higher order runs (``torch.cond``, ``torch.while_loop``); it is named.
    """

    supports_higher_order_operators = True  # they come here, to be refused

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By storage, which views share. As long as it is referred to, no other storage is given the same address.
        self._activations: dict[int, StorageWeakRef] = {}
        self._blank: dict[int, StorageWeakRef] = {}
        _add(self._activations, images)

    def before(self, func: Any, inputs: Sequence[Tensor]) -> None:
        """Hook: an operator is about to run on these tensors."""

    def after(self, func: Any, args: Sequence[Any], inputs: Sequence[Tensor], result: Any) -> None:
        """Hook: an operator that read something else than weights has run."""

    def is_activation(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` depends on the images."""
        return _address(tensor) in self._activations

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a weight or computed from weights alone."""
        return not self.is_activation(tensor) and _address(tensor) not in self._blank

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            raise ModelError(
                f"the model computes by torch's higher-order operator '{func.__name__}', which takes functions and may "
                "branch or loop by the image: only models that compute the same layers for every image can be slimmed"
            )
        inputs = list(_tensors((args, kwargs)))
        self.before(func, inputs)
        of_weights = bool(inputs) and all(map(self.is_weight, inputs))
        of_images = func.overloadpacket.__name__ not in _BLANK and any(map(self.is_activation, inputs))
        result = func(*args, **(kwargs or {}))
        if not of_weights:
            self.after(func, args, inputs, result)
            for tensor in _tensors(result):
                _add(self._activations if of_images else self._blank, tensor)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _add(known: dict[int, StorageWeakRef], tensor: Tensor) -> None:
    known[_address(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _address(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        raise ModelError(
            f"the model computes with a tensor of layout {tensor.layout}, which cannot be slimmed or counted: make it "
            "dense (to_dense())"
        )
    return int(tensor.untyped_storage()._cdata)
