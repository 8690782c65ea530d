"""What operators do to the numbers of channels (``index_maps``).

What moves elements (views, transposes, slices, splits, concatenations, rolls) moves the numbers alike; what computes
element by element ties the numbers that meet; what sums over channels (attention, softmax, norms) freezes them by name.
An operator that is not known here freezes what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..dispatch import PRODUCTS
from .index_cuts import channel_shuffle, moves, pixel_shuffle, select, slice_, split
from .index_maps import Call, IndexMaps, Rule, tensors_in
from .labels import compact, varies

_RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "view_as")
_MOVES = (
    *("permute", "transpose", "t", "numpy_T", "unsqueeze", "squeeze", "expand", "flip", "repeat", "pixel_unshuffle"),
    *("stack", "movedim", "diagonal", "unfold", "cat", "narrow"),
)
_SAME = ("clone", "contiguous", "alias", "detach", "_to_copy", "lift_fresh", "dropout", "native_dropout", "bernoulli_")
_SPATIAL = (
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "_adaptive_avg_pool2d"),
    *("adaptive_avg_pool2d", "reflection_pad2d", "replication_pad2d", "grid_sampler_2d", "grid_sampler"),
)
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "norm", "logsumexp")
_OVER_ONE = ("_softmax", "_log_softmax", "cumsum", "softmax", "log_softmax", "_safe_softmax")
_POINTWISE = ("hardswish", "_prelu_kernel", "log_sigmoid_forward", "rrelu_with_noise", "tril", "triu", "where")
_BLANK = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
_SHAPED = ("new_zeros", "new_ones", "new_full", "new_empty")


def rule_of(func: Any) -> Rule:
    """What an operator of ATen does to labels."""
    name = func.overloadpacket.__name__
    rule = _RULES.get(name) or _RULES.get(name.rstrip("_"))
    if rule is not None:
        return rule
    if torch.Tag.pointwise in func.tags:
        return elementwise
    if name.startswith(("upsample", "_upsample")):
        return spatial
    return products if "scaled_dot_product" in name or "multi_head" in name else unknown


def elementwise(maps: IndexMaps, call: Call) -> None:
    """Operators element by element tie the channels that meet."""
    (result, *_) = tensors_in(call.result)
    operands = [tensor for tensor in tensors_in((call.args, call.kwargs)) if tensor.dim() <= result.dim()]
    labelled = [(tensor, known) for tensor in operands if (known := maps.of(tensor)) is not None]
    whole = max(labelled, key=lambda pair: pair[0].numel())[1].expand(result.shape)
    for tensor, own in labelled:
        _meet(maps, call, own, result, [other for each, other in labelled if each is not tensor])
    for tensor, own in labelled:
        if tensor.numel() == result.numel():
            maps.labels.tie(own.expand(result.shape), whole)
            if whole is not own and call.name.startswith(("add", "sub")):
                maps.added.append(compact(own.expand(result.shape))[0])
    for tensor in operands:
        if maps.of(tensor) is None:
            _meet_constant(maps, call, tensor, whole)
    maps.set(result, whole)


def _meet(maps: IndexMaps, call: Call, own: Tensor, result: Tensor, others: Iterable[Tensor]) -> None:
    """Tie an operand to larger ones; freeze it where it is repeated along their channels."""
    lead = result.dim() - own.dim()
    repeated = [
        dim for dim in range(result.dim()) if result.shape[dim] > 1 and (dim < lead or own.shape[dim - lead] == 1)
    ]
    for other in others:
        wide = other.expand(result.shape)
        if any(varies(wide, dim) for dim in repeated):
            maps.labels.freeze(own, f"{call.where} repeats them along other channels ('{call.name}')")
        elif repeated:
            maps.labels.tie(own.expand(result.shape), wide)


def _meet_constant(maps: IndexMaps, call: Call, constant: Tensor, whole: Tensor) -> None:
    """Freeze channels that a tensor of fixed shape has an element for each of."""
    lead = whole.dim() - constant.dim()
    for dim in range(lead, whole.dim()):
        if constant.shape[dim - lead] > 1 and varies(whole, dim):
            maps.labels.freeze(whole, f"{maps.name_of(constant)} has an element for each of them, in {call.where}")


def index(maps: IndexMaps, call: Call) -> None:
    """Indexing by tensors that do not depend on the images moves elements; numbers of channels freeze these."""
    own = maps.of(call.args[0])
    given = call.args[1] if call.name == "index" else [None] * call.args[1] + [call.args[2]]
    if own is not None and any(varies(own, dim) for dim, at in enumerate(given) if at is not None):
        maps.labels.freeze(own, f"{call.where} takes them by their numbers ('{call.name}')")
    if any(maps.of(tensor) is not None for tensor in tensors_in((call.args[1:], call.kwargs))):
        unknown(maps, call)
    else:
        moves(maps, call)


def roll(maps: IndexMaps, call: Call) -> None:
    """A shift along dimensions; channels that go round change their order with their number, so they stay."""
    own = maps.of(call.args[0])
    assert own is not None
    dims = call.args[2] if len(call.args) > 2 and call.args[2] else range(own.dim())
    if any(varies(own, dim) for dim in dims):
        maps.labels.freeze(own, f"{call.where} rolls them")
    moves(maps, call)


def gated_half(maps: IndexMaps, call: Call) -> None:
    """GLU: the second half of the channels gates the first."""
    own = maps.of(call.args[0])
    assert own is not None
    dim = call.args[1] if len(call.args) > 1 else -1
    half = own.shape[dim] // 2
    first = own.narrow(dim, 0, half)
    maps.labels.tie(first, own.narrow(dim, half, half))
    maps.set(call.result, first)


def reshape(maps: IndexMaps, call: Call) -> None:
    """A view that gives channels a second dimension (groups, heads): all rows of it keep the same places."""
    own = maps.of(call.args[0])
    assert own is not None
    labels = own.reshape(call.result.shape)
    before = sum(varies(own, dim) for dim in range(own.dim()))
    after = [dim for dim in range(labels.dim()) if varies(labels, dim)]
    if len(after) > before:
        for dim in after[:-1]:
            maps.labels.tie_along(labels, dim)
    maps.set(call.result, labels)


def same(maps: IndexMaps, call: Call) -> None:
    """Copies."""
    own = maps.of(call.args[0])
    if own is not None:
        for result in tensors_in(call.result):
            maps.set(result, own)


def restride(maps: IndexMaps, call: Call) -> None:
    """Other strides for the same elements (pooling of maps whose channels come last)."""
    if call.args[0].shape == call.result.shape and call.name == "as_strided_":
        same(maps, call)
    else:
        unknown(maps, call)


def nothing(maps: IndexMaps, call: Call) -> None:
    """New tensors of another shape do not depend on the images."""
    del maps, call


def spatial(maps: IndexMaps, call: Call) -> None:
    """Pooling, padding and resizing of maps (N, C, H, W), each channel by itself."""
    own = maps.of(call.args[0])
    if own is None or own.dim() != 4 or any(varies(own, dim) for dim in (0, 2, 3)):
        unknown(maps, call)
        return
    for result in tensors_in(call.result):
        maps.set(result, own[:1, :, :1, :1].expand(result.shape))


def pad(maps: IndexMaps, call: Call) -> None:
    """Zeros around; zeros beside channels freeze them."""
    own = maps.of(call.args[0])
    assert own is not None
    amounts = call.args[1]
    padded = [own.dim() - 1 - place // 2 for place, amount in enumerate(amounts) if amount]
    if any(varies(own, dim) for dim in padded):
        zero = maps.labels.fixed((), f"{call.where} pads channels with constants")
        maps.labels.freeze(own, f"{call.where} pads channels with constants")
        maps.set(call.result, torch.constant_pad_nd(own.contiguous(), amounts, float(zero)))
        return
    for dim in padded:
        own = own.narrow(dim, 0, 1)
    maps.set(call.result, own.expand(call.result.shape))


def reduction(maps: IndexMaps, call: Call) -> None:
    """Sums, means, norms and largest values along dimensions."""
    own = maps.of(call.args[0])
    assert own is not None
    given = next(
        (
            a
            for a in (*call.args[1:], call.kwargs.get("dim"))
            if isinstance(a, int | list | tuple) and not isinstance(a, bool)
        ),
        None,
    )
    if call.name in ("linalg_vector_norm", "norm", "var", "std"):
        given = next((a for a in (*call.args[1:], call.kwargs.get("dim")) if isinstance(a, list | tuple)), None)
    dims = [given] if isinstance(given, int) else list(given or range(own.dim()))
    dims = [dim % max(1, own.dim()) for dim in dims]
    if any(varies(own, dim) for dim in dims):
        maps.labels.freeze(own, f"'{call.name}' in {call.where} is taken over several of them")
    for dim in dims:
        own = own.narrow(dim, 0, 1)
    for result in tensors_in(call.result):
        maps.set(result, own.reshape(result.shape))


def over_one(maps: IndexMaps, call: Call) -> None:
    """Softmax and cumulative sums along one dimension."""
    own = maps.of(call.args[0])
    assert own is not None
    if varies(own, call.args[1]):
        maps.labels.freeze(own, f"'{call.name.strip('_')}' in {call.where} is taken over several of them")
    maps.set(call.result, own)


def layer_norm(maps: IndexMaps, call: Call) -> None:
    """A layer normalisation that is no module."""
    own = maps.of(call.args[0])
    assert own is not None
    if any(varies(own, -dim) for dim in range(1, len(call.args[1]) + 1)):
        maps.labels.freeze(own, f"layer_norm in {call.where} normalises several channels together")
    maps.set(call.result[0], own)
    for result in call.result[1:]:
        maps.set(result, maps.labels.fixed(result.shape, "they are statistics of a normalisation"))


def products(maps: IndexMaps, call: Call) -> None:
    """Matrix products of activations with each other (attention), or with weights outside of any layer."""
    operands = tensors_in((call.args, call.kwargs))
    factors = operands[-2:] if call.name in PRODUCTS else operands
    activations = [known for tensor in factors if (known := maps.of(tensor)) is not None]
    constant = next((tensor for tensor in factors if maps.of(tensor) is None), None)
    if len(activations) > 1 or constant is None:
        reason = f"attention: {call.where} multiplies activations with each other ('{call.name.strip('_')}')"
    else:
        reason = f"{maps.name_of(constant)} is multiplied with them outside of a layer of its own, in {call.where}"
    _freeze_all(maps, call, reason)


def unknown(maps: IndexMaps, call: Call) -> None:
    """Whatever else: what it reads stays."""
    _freeze_all(maps, call, f"the operator '{call.name}' in {call.where} cannot be followed")


def _freeze_all(maps: IndexMaps, call: Call, reason: str) -> None:
    for tensor in tensors_in((call.args, call.kwargs)):
        if (known := maps.of(tensor)) is not None:
            maps.labels.freeze(known, reason)
    for result in tensors_in(call.result):
        maps.set(result, maps.labels.fixed(result.shape, reason))


def write(maps: IndexMaps, call: Call) -> None:
    """Writing into a part of a tensor, which other views share."""
    _freeze_all(maps, call, f"{call.where} writes them into a part of a tensor ('{call.name}')")
    target = call.args[0]
    maps.written[target.untyped_storage()._cdata] = target


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_RESHAPES, reshape),
    **dict.fromkeys(_MOVES, moves),
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_SPATIAL, spatial),
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_OVER_ONE, over_one),
    **dict.fromkeys(_BLANK, same),
    **dict.fromkeys(_POINTWISE, elementwise),
    **dict.fromkeys(_SHAPED, nothing),
    **dict.fromkeys(PRODUCTS, products),
    **dict.fromkeys(("copy", "index_put", "scatter", "scatter_add", "_index_put_impl"), write),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "split_copy", "split_with_sizes_copy"), split),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
    **dict.fromkeys(("as_strided", "as_strided_"), restride),
    "roll": roll,
    "glu": gated_half,
    "index": index,
    "index_select": index,
    "slice": slice_,
    **dict.fromkeys(("select", "unbind"), select),
    "constant_pad_nd": pad,
    "native_layer_norm": layer_norm,
    "pixel_shuffle": pixel_shuffle,
}
