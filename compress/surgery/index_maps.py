"""Follows channels operator by operator as index maps: every element of an activation carries its channel's number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .labels import ChannelNumbers
from .splits import CutPlace


@dataclass(frozen=True)
class Call:
    """An operator of ATen as it ran: ``where`` names the module that called it."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    where: str


class IndexMaps(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Context: labels every activation of a pass with the numbers of its channels.

    ``paused``: above 0 while a layer runs whose channels the caller labels by itself.
    ``running``: the modules that compute, the innermost last.

    Args:
        names: of the network's modules.
        tensors: names of its parameters and buffers, by id.
        rules: what each operator does to labels.
    """

    def __init__(
        self,
        images: Tensor,
        names: Mapping[nn.Module, str],
        tensors: Mapping[int, str],
        rules: Callable[[Any], Rule],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.labels = ChannelNumbers()
        self.paused = 0
        self.running: list[nn.Module] = []
        self.places: list[CutPlace] = []
        self.parts: list[Tensor] = []
        self.added: list[Tensor] = []
        self.names, self._tensors, self._rules = names, tensors, rules
        self._known: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []  # else the id of a tensor that is gone may be given again
        self.written: dict[int, Tensor] = {}
        self.set(images, self.labels.fixed(images.shape, "they are the channels of the images"))

    def of(self, tensor: Tensor) -> Tensor | None:
        """Numbers of the shape of ``tensor``; None for what does not depend on the images."""
        known = self._known.get(id(tensor))
        if known is None and tensor.untyped_storage()._cdata in self.written:
            return self.labels.fixed(tensor.shape, "they are written into a part of a tensor")
        return known

    def set(self, tensor: Tensor, labels: Tensor) -> None:
        """Note the labels of an activation."""
        assert labels.shape == tensor.shape, f"labels of {tuple(labels.shape)} for {tuple(tensor.shape)}"
        self._known[id(tensor)] = labels
        self._alive.append(tensor)

    @property
    def where(self) -> str:
        """The module that computes, in words."""
        name = self.names.get(self.running[-1], "") if self.running else ""
        return f"{type(self.running[-1]).__name__} '{name}'" if name else "the model's forward()"

    def name_of(self, tensor: Tensor) -> str:
        """The name of a parameter or buffer, or words for another tensor that does not depend on the images."""
        name = self._tensors.get(id(tensor), self._tensors.get(id(tensor._base)))
        return f"'{name}'" if name else f"a tensor of fixed shape {tuple(tensor.shape)}"

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.paused and any(self.of(tensor) is not None for tensor in tensors_in((args, kwargs))):
            name = func.overloadpacket.__name__
            call = Call(func, name, tuple(args), dict(kwargs or {}), result, self.where)
            self._rules(func)(self, call)
        return result


Rule = Callable[[IndexMaps, Call], None]
"""Labels what an operator returns; ties and freezes what it reads."""


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nest of arguments or results."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
