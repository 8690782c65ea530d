"""MACs, parameters and bytes of an ONNX file, read from its graph alone: neither torch nor a runtime is needed.

The same layers count as in ``slimsight.compress.macs``: convolutions and linear layers (Gemm, and MatMul with a stored
operand), one fused multiply-add each; products of two activations (attention) do not. Integer forms count alike.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError

from ..onnx_files.graph import read_onnx
from .layers import LayerCost, ModelCost, Shape
from .onnx_shapes import graphs_in, known_dims, with_shapes

# Operator -> places of its weight and its bias among its inputs (None: it has no bias).
_CONVOLUTIONS: Final = {"Conv": (1, 2), "ConvInteger": (1, None), "QLinearConv": (3, 8), "ConvTranspose": (1, 2)}
_PRODUCTS: Final = {"Gemm": (1, 2), "MatMul": (1, None), "MatMulInteger": (1, None), "QLinearMatMul": (3, None)}
_POINTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Reciprocal"})
# Stored tensors that are no parameters: statistics of BatchNormalization, scales and zero points, sizes.
_NO_PARAMETERS: Final = {
    "BatchNormalization": (3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
_INTEGER_WEIGHTS: Final = frozenset({"INT8", "UINT8", "INT4", "UINT4"})


def onnx_cost(path: Path, image: Shape | None = None) -> ModelCost:
    """What the model in an ONNX file costs for one image.

    Of an ``If`` the dearer branch counts: MACs of a routed file are the most that an image can cost. Parameters are the
    numbers in stored weights: BatchNorm that was folded into a convolution has left its bias there, and no more.

    Args:
        image: (C, H, W), for a file that takes images of any size.

    Raises:
        ExportError: the file is missing or no ONNX file; it takes no single image, or of another size than ``image``; a
            shape in it is not known; or a layer is repeated as often as the data say.
    """
    try:
        shaped = with_shapes(path, image, needed=_needed)
        scope = _CostScope(path, shaped.dims, {})
        layers = tuple(layer.per_image(shaped.batch) for layer in _merged(_layers(shaped.graph, scope)))
    except (LookupError, ArithmeticError, ValueError, TypeError) as error:  # a node without its inputs, sizes of zero
        raise ExportError(f"{path} is not well-formed ({' '.join(str(error).split())}): export it again") from error
    return ModelCost(
        macs=sum(layer.macs for layer in layers), params=_count_params(shaped.graph), layers=layers, image=shaped.image
    )


def onnx_bytes(path: Path) -> int:
    """Bytes on the disk: the file, and those beside it that hold its weights.

    Raises:
        ExportError: one of them is missing.
    """
    proto = read_onnx(path, external=False)
    beside = {
        entry.value
        for graph in graphs_in(proto.graph)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    try:
        return sum(file.stat().st_size for file in (path, *(path.parent / name for name in sorted(beside))))
    except FileNotFoundError as error:
        raise ExportError(f"{path} keeps weights in {error.filename}, which is missing: copy both") from error


@dataclass
class _CostScope:
    """What is known where a graph stands: dims of values, and of values that never change where they are stored."""

    path: Path
    dims: dict[str, tuple[int, ...]]
    stored: dict[str, str]  # value -> the initializer that it comes from

    def shape(self, name: str, node: Any) -> tuple[int, ...]:
        if name not in self.dims:
            raise ExportError(
                f"{self.path}: the shape of '{name}' at {node.op_type} '{node.name}' is not known, so its MACs cannot "
                "be counted: export the model without operators of other domains than ONNX's own"
            )
        return self.dims[name]


def _needed(node: Any) -> list[str]:
    """The values whose shapes say what a node costs; none of a node that is no layer."""
    if node.domain not in ("", "ai.onnx"):
        return []
    place = next((kinds[node.op_type][0] for kinds in (_CONVOLUTIONS, _PRODUCTS) if node.op_type in kinds), None)
    return [] if place is None else [node.input[0], node.input[place], node.output[0]]


def _layers(graph: Any, outer: _CostScope) -> Iterator[LayerCost]:
    """Every convolution and linear layer that runs, in the order of the graph; a layer called twice comes twice."""
    scope = _CostScope(outer.path, {**outer.dims, **known_dims(graph)}, dict(outer.stored))
    scope.stored |= {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS and node.domain in ("", "ai.onnx"):
            yield _convolution(node, scope)
        elif node.op_type in _PRODUCTS and node.domain in ("", "ai.onnx"):
            yield from _product(node, scope)
        elif inner := [attribute.g for attribute in node.attribute if attribute.HasField("g")]:
            branches = [list(_layers(part, scope)) for part in inner]
            if node.op_type != "If" and any(branches):
                raise ExportError(
                    f"{scope.path}: {node.op_type} '{node.name}' repeats layers as often as the data say: their MACs "
                    "cannot be counted"
                )
            yield from max(branches, key=lambda layers: sum(layer.macs for layer in layers))
        elif node.op_type == "Constant":
            scope.stored[node.output[0]] = node.output[0]
        elif (given := [name for name in node.input if name]) and all(name in scope.stored for name in given):
            scope.stored |= dict.fromkeys(node.output, scope.stored[given[0]])


def _convolution(node: Any, scope: _CostScope) -> LayerCost:
    place, bias = _CONVOLUTIONS[node.op_type]
    weight = scope.shape(node.input[place], node)
    read, written = scope.shape(node.input[0], node), scope.shape(node.output[0], node)
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    transposed = node.op_type == "ConvTranspose"
    inputs, outputs = (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    applied = read if transposed else written
    positions = applied[0] * math.prod(applied[2:])
    return LayerCost(
        name=_name(node, node.input[place], scope),
        macs=math.prod(weight) * positions,
        params=math.prod(weight) + _bias(node, bias, scope),
        inputs=inputs,
        outputs=outputs,
        groups=groups,
        kernel=math.prod(weight[2:]),
        positions=positions,
        reads=read[0] * math.prod(read[2:]),
    )


def _product(node: Any, scope: _CostScope) -> Iterator[LayerCost]:
    place, bias = _PRODUCTS[node.op_type]
    left, right = scope.shape(node.input[0], node), scope.shape(node.input[place], node)
    written = scope.shape(node.output[0], node)
    turned = {attribute.name: attribute.i for attribute in node.attribute if attribute.name in ("transA", "transB")}
    if node.op_type != "Gemm" and (node.input[0] in scope.stored) == (node.input[place] in scope.stored):
        return  # of two activations, or of two constants: no layer
    weight = node.input[place] if node.input[place] in scope.stored or node.op_type == "Gemm" else node.input[0]
    inputs = left[0] if turned.get("transA") else left[-1]
    from_the_left = weight == node.input[0]
    outputs = left[-2] if from_the_left else right[-2] if turned.get("transB") else right[-1]
    positions = math.prod(written) // max(1, outputs)
    size = math.prod(left if from_the_left else right)
    yield LayerCost(
        name=_name(node, weight, scope),
        macs=math.prod(written) * inputs,
        params=size + _bias(node, bias, scope),
        inputs=inputs,
        outputs=outputs,
        positions=positions,
        reads=positions,
    )


def _bias(node: Any, place: int | None, scope: _CostScope) -> int:
    if place is None or len(node.input) <= place or node.input[place] not in scope.stored:
        return 0
    return math.prod(scope.shape(node.input[place], node))


def _name(node: Any, weight: str, scope: _CostScope) -> str:
    """A layer's name in the model that was exported: its weight's, else its node's (``/features/0/Conv``)."""
    stored = scope.stored.get(weight, "").removesuffix("_quantized")
    if stored.endswith(".weight"):
        return stored.removesuffix(".weight")
    kept, slash, operator = str(node.name).rpartition("/")
    if slash and operator.partition(".")[0].startswith(node.op_type):
        return kept.strip("/")
    return str(node.name) or str(node.output[0])


def _merged(found: Iterator[LayerCost]) -> list[LayerCost]:
    """Calls of one layer as one."""
    layers: dict[str, LayerCost] = {}
    for layer in found:
        known = layers.get(layer.name)
        layers[layer.name] = layer if known is None else known.joined(layer)
    return list(layers.values())


def _count_params(graph: Any) -> int:
    """Numbers in stored weights: not statistics, not what quantizes, not what normalises the image."""
    onnx = importlib.import_module("onnx")
    kinds = onnx.TensorProto.DataType
    tensors: dict[str, Any] = {}
    passed_over: set[str] = set()
    for each in graphs_in(graph):
        tensors |= {tensor.name: tensor for tensor in each.initializer}
        for node in each.node:
            if node.op_type == "Constant":
                tensors.update((node.output[0], given.t) for given in node.attribute if given.name == "value")
            places: Sequence[int] = _NO_PARAMETERS.get(node.op_type, ())
            passed_over |= {node.input[place] for place in places if place < len(node.input)}
    passed_over |= _normalising(graph, set(tensors))
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors.items()
        if name not in passed_over
        and len(tensor.dims) > 0
        and ("FLOAT" in (kind := kinds.Name(tensor.data_type)) or kind in ("DOUBLE", *_INTEGER_WEIGHTS))
    )


def _normalising(graph: Any, stored: set[str]) -> set[str]:
    """The stored values that only shift and scale the image before anything is computed of it."""
    image = {value.name for value in graph.input if value.name not in stored}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in _POINTWISE and image & {*node.input}:
            image |= {*node.output}
            found |= {name for name in node.input if name in stored}
    return found
