"""ONNX operators of vision networks in PyTorch, for training what an ONNX file computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
Operator = Callable[[Attributes, Sequence[Any]], Any]
"""(attributes, inputs) -> its output, or a tuple of them. An optional input that is left out is None."""


class NotTrainable(ValueError):
    """An operator, or a form of one, that is not among those here; says which."""


def run_operator(name: str, attributes: Attributes, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """The outputs of an ONNX operator.

    Raises:
        NotTrainable: it is not among those here, or has an attribute that is not.
    """
    found = OPERATORS[name](attributes, inputs)
    return found if isinstance(found, tuple) else (found,)


def _split_pads(pads: Sequence[int], dims: int) -> tuple[tuple[int, ...], list[int]]:
    """ONNX's pads (begins, then ends) as (symmetric padding, what ``F.pad`` has to add before it)."""
    begins, ends = tuple(pads[:dims]), tuple(pads[dims:])
    if begins == ends:
        return begins, []
    return (0,) * dims, [side for k in reversed(range(dims)) for side in (begins[k], ends[k])]


def _check_padding(attributes: Attributes) -> None:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise NotTrainable(f"padding by auto_pad {attributes['auto_pad']!r}")


def _conv(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    _check_padding(attributes)
    values, weight, bias = (*inputs, None)[:3]
    dims = weight.dim() - 2
    padding, added = _split_pads(attributes.get("pads", [0] * 2 * dims), dims)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    values = F.pad(values, added) if added else values
    strides, dilations = attributes.get("strides", [1] * dims), attributes.get("dilations", [1] * dims)
    result: Tensor = convolve(values, weight, bias, strides, padding, dilations, attributes.get("group", 1))
    return result


def _gemm(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    left, right, bias = (*inputs, None)[:3]
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        raise NotTrainable("Gemm with factors alpha and beta")
    left = left.t() if attributes.get("transA") else left
    right = right if attributes.get("transB") else right.t()
    return F.linear(left, right, bias)


def _pool_options(attributes: Attributes) -> tuple[tuple[int, ...], list[int], dict[str, Any]]:
    _check_padding(attributes)
    dims = len(attributes["kernel_shape"])
    padding, added = _split_pads(attributes.get("pads", [0] * 2 * dims), dims)
    options = {"stride": attributes.get("strides", [1] * dims), "ceil_mode": bool(attributes.get("ceil_mode", 0))}
    return padding, added, options


def _max_pool(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    padding, added, options = _pool_options(attributes)
    values = F.pad(inputs[0], added, value=float("-inf")) if added else inputs[0]
    dilation = attributes.get("dilations", [1] * len(padding))
    result: Tensor = F.max_pool2d(values, attributes["kernel_shape"], padding=padding, dilation=dilation, **options)
    return result


def _average_pool(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    padding, added, options = _pool_options(attributes)
    if added:
        raise NotTrainable("AveragePool with unlike padding of two sides")
    counted = bool(attributes.get("count_include_pad", 0))
    return F.avg_pool2d(inputs[0], attributes["kernel_shape"], padding=padding, count_include_pad=counted, **options)


def _axes(attributes: Attributes, inputs: Sequence[Any]) -> list[int]:
    """Axes of an operator, which newer operator sets give as an input."""
    if len(inputs) > 1 and inputs[1] is not None:
        axes: list[int] = inputs[1].tolist()
        return axes
    return list(attributes.get("axes", ()))


def _reduce_mean(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    axes = _axes(attributes, inputs) or list(range(inputs[0].dim()))
    result: Tensor = inputs[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))
    return result


def _reshape(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    values, shape = inputs[0], inputs[1].tolist()
    keeps = not attributes.get("allowzero", 0)
    result: Tensor = values.reshape([values.shape[k] if keeps and size == 0 else size for k, size in enumerate(shape)])
    return result


def _flatten(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    axis = attributes.get("axis", 1) % (inputs[0].dim() + 1)
    result: Tensor = inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)
    return result


def _split(attributes: Attributes, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    axis, values = attributes.get("axis", 0), inputs[0]
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(values.split(inputs[1].tolist(), axis))
    if "num_outputs" not in attributes:
        raise NotTrainable("Split without sizes")
    return tuple(values.split(-(-values.shape[axis] // attributes["num_outputs"]), axis))


def _clip(_: Attributes, inputs: Sequence[Any]) -> Tensor:
    values, low, high = (*inputs, None, None)[:3]
    return values if low is None and high is None else torch.clamp(values, low, high)


def _softmax(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    result: Tensor = inputs[0].softmax(attributes.get("axis", -1))
    return result


def _layer_norm(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    values, scale, bias = (*inputs, None)[:3]
    axis = attributes.get("axis", -1) % values.dim()
    return F.layer_norm(values, values.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _batch_norm(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    values, scale, shift, mean, variance = inputs
    return F.batch_norm(values, mean, variance, scale, shift, False, 0.0, attributes.get("epsilon", 1e-5))


def _hard_sigmoid(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * inputs[0] + attributes.get("beta", 0.5), 0, 1)


def _gelu(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    form = attributes.get("approximate", b"none")
    return F.gelu(inputs[0], approximate=form.decode() if isinstance(form, bytes) else form)


def _transpose(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    result: Tensor = inputs[0].permute(attributes.get("perm", list(reversed(range(inputs[0].dim())))))
    return result


def _squeeze(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    axes = _axes(attributes, inputs)
    result: Tensor = inputs[0].squeeze(tuple(axes)) if axes else inputs[0].squeeze()
    return result


def _unsqueeze(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    values: Tensor = inputs[0]
    rank = values.dim() + len(axes := _axes(attributes, inputs))
    for axis in sorted(axis % rank for axis in axes):
        values = values.unsqueeze(axis)
    return values


def _slice(_: Attributes, inputs: Sequence[Any]) -> Tensor:
    values, starts, ends, axes, steps = (*inputs, None, None)[:5]
    where = range(len(starts)) if axes is None else axes.tolist()
    counts = [1] * len(starts) if steps is None else steps.tolist()
    if any(step < 1 for step in counts):
        raise NotTrainable("Slice backwards")
    chosen = [slice(None)] * values.dim()
    for axis, start, end, step in zip(where, starts.tolist(), ends.tolist(), counts, strict=True):
        chosen[axis] = slice(start, end, step)
    result: Tensor = values[tuple(chosen)]
    return result


def _pad(attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    if attributes.get("mode", b"constant") not in (b"constant", "constant") or len(inputs) > 3:
        raise NotTrainable("Pad of another mode than constant, or of chosen axes")
    values, pads, fill = (*inputs, None)[:3]
    sides, dims = pads.tolist(), values.dim()
    turned = [side for k in reversed(range(dims)) for side in (sides[k], sides[k + dims])]
    return F.pad(values, turned, value=0.0 if fill is None else float(fill))


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda _, inputs: inputs[0] + inputs[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda attributes, inputs: torch.cat(list(inputs), attributes["axis"]),
    "Conv": _conv,
    "Div": lambda _, inputs: inputs[0] / inputs[1],
    "Erf": lambda _, inputs: torch.erf(inputs[0]),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, inputs: inputs[0].mean((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, inputs: F.hardswish(inputs[0]),
    "Identity": lambda _, inputs: inputs[0],
    "LayerNormalization": _layer_norm,
    "MatMul": lambda _, inputs: inputs[0] @ inputs[1],
    "MaxPool": _max_pool,
    "Mul": lambda _, inputs: inputs[0] * inputs[1],
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda _, inputs: F.relu(inputs[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda _, inputs: torch.sigmoid(inputs[0]),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": lambda _, inputs: inputs[0] - inputs[1],
    "Tanh": lambda _, inputs: torch.tanh(inputs[0]),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
