"""What views and cuts do to the numbers of channels: parts of splits, slices, shuffles (``index_rules``)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from .index_maps import Call, IndexMaps, tensors_in
from .labels import varies
from .splits import find_places


def moves(maps: IndexMaps, call: Call) -> None:
    """Operators that only move elements: the same is done to the labels."""

    def to_labels(tensor: Tensor) -> Tensor:
        known = maps.of(tensor)
        if known is None and not tensor.is_floating_point():
            return tensor
        if known is None:
            return maps.labels.fixed(tensor.shape, f"{maps.name_of(tensor)} stands beside them, in {call.where}")
        return known

    args, kwargs = tree_map_only(Tensor, to_labels, (call.args, call.kwargs))
    _set_all(maps, call.result, call.func(*args, **kwargs))


def _set_all(maps: IndexMaps, result: Any, labels: Any) -> None:
    for tensor, own in zip(tensors_in(result), tensors_in(labels), strict=True):
        maps.set(tensor, own)


def pixel_shuffle(maps: IndexMaps, call: Call) -> None:
    """(C x r x r, H, W) -> (C, H x r, W x r): r x r neighbouring channels become one."""
    own = maps.of(call.args[0])
    assert own is not None
    cells = own[:1, :, :1, :1].reshape(-1, call.args[1] ** 2)
    maps.labels.tie_along(cells, 1)
    maps.set(call.result, cells[:, 0].reshape(1, -1, 1, 1).expand(call.result.shape))


def channel_shuffle(maps: IndexMaps, call: Call) -> None:
    """The channels of all groups in turn; all groups keep the same places."""
    own = maps.of(call.args[0])
    assert own is not None
    groups = own.reshape(own.shape[0], call.args[1], -1, *own.shape[2:])
    maps.labels.tie_along(groups, 1)
    maps.set(call.result, groups.transpose(1, 2).reshape(call.result.shape))


def split(maps: IndexMaps, call: Call) -> None:
    """Parts of channels, by ``split``, ``chunk`` or a list of widths."""
    source, dim = call.args[0], (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0))
    own = maps.of(source)
    assert own is not None
    widths = [part.shape[dim] for part in call.result]
    moves(maps, call)
    if varies(own, dim):
        bounds = [sum(widths[:place]) for place in range(len(widths) + 1)]
        _cut(maps, call, own, dim, list(pairwise(bounds)))


def slice_(maps: IndexMaps, call: Call) -> None:
    """A slice along one dimension."""
    own = maps.of(call.args[0])
    assert own is not None
    absent: list[Any] = [0, None, None, 1]
    dim, start, end, step = [*call.args[1:], *absent[len(call.args) - 1 :]]
    dim, length = dim % own.dim(), own.shape[dim]
    moves(maps, call)
    if not varies(own, dim):
        return
    start, end, _ = slice(start, end).indices(length)
    if step > 1:  # every step-th channel: neighbours stay together
        whole = own.narrow(dim, 0, length // step * step)
        cells = whole.reshape(*whole.shape[:dim], -1, step, *whole.shape[dim + 1 :])
        maps.labels.tie_along(cells, dim + 1)
        maps.labels.freeze(own.narrow(dim, length // step * step, length % step), f"{call.where} slices by {step}")
    elif (start, end) != (0, length):
        edges = sorted({0, start, end, length})
        _cut(maps, call, own, dim, list(pairwise(edges)))


def select(maps: IndexMaps, call: Call) -> None:
    """Rows along a dimension taken by their numbers (``x[:, 0]``, ``unbind``): channels in it must stay."""
    own = maps.of(call.args[0])
    assert own is not None
    dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    if [other for other in range(own.dim()) if varies(own, other)] == [dim % own.dim()]:
        maps.labels.freeze(own, f"{call.where} takes one of them by its number ('{call.name}')")
    moves(maps, call)


def _cut(maps: IndexMaps, call: Call, own: Tensor, dim: int, bounds: Sequence[tuple[int, int]]) -> None:
    """Channels are cut at ``bounds``; equal parts keep the same places, others need attributes that say the widths."""
    dim %= own.dim()
    for other in range(own.dim()):
        if other != dim:
            maps.labels.tie_along(own, other)
            own = own.narrow(other, 0, 1)
    line = own.reshape(-1)
    parts = [line[start:end] for start, end in bounds]
    owner = maps.running[-1] if maps.running else None
    places = find_places(owner, maps.names.get(owner, "") if owner else "", parts)
    equal = len({len(part) for part in parts}) == 1
    if places is None and not equal:
        maps.labels.freeze(line, f"{call.where} cuts them at a fixed place ('{call.name}')")
        return
    if places is None or places.tied:
        first = {len(part): part for part in reversed(parts)}
        for part in parts:
            maps.labels.tie(part, first[len(part)])
    maps.places += () if places is None else places.found
    maps.parts += parts
