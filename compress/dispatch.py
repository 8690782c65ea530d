"""Dispatch mode that knows which tensors are weights, or computed from weights alone, and which are activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm", "addbmm")
"""Matrix products of ATen; their factors are the last two tensors that they are given."""

_BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")


class WeightsMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: calls ``before`` and ``after`` around every operator of ATen and keeps track of what is no activation.

    Weights are the parameters and buffers of ``model`` and what operators compute from weights alone; constant are
    weights, tensors made of nothing (``torch.zeros``), and what is computed from constants alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Storages, which views share. The tensors are kept: the address of one that is gone may be given again.
        self._weights = {_address(t): t for t in (*model.parameters(), *model.buffers())}
        self._constants = dict(self._weights)

    def before(self, func: Any, inputs: Sequence[Tensor]) -> None:
        """Hook: an operator is about to run on these tensors."""

    def after(self, func: Any, args: Sequence[Any], inputs: Sequence[Tensor], result: Any) -> None:
        """Hook: an operator that read something else than weights has run."""

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a weight or computed from weights alone."""
        return _address(tensor) in self._weights

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the same for all images."""
        return _address(tensor) in self._constants

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = list(_tensors((args, kwargs)))
        self.before(func, inputs)
        of_weights = bool(inputs) and all(map(self.is_weight, inputs))
        constant = func.overloadpacket.__name__ in _BLANK or all(map(self.is_constant, inputs))
        result = func(*args, **(kwargs or {}))
        if not of_weights:
            self.after(func, args, inputs, result)
        for tensor in _tensors(result):
            for known, keep in ((self._weights, of_weights), (self._constants, constant)):
                if keep:
                    known[_address(tensor)] = tensor
                else:
                    known.pop(_address(tensor), None)  # something else was written into it
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
