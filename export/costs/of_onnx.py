"""MACs, parameters and bytes of an ONNX file, counted from its graph without torch.

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

from ..onnx_files.graph import nested_graphs, read_onnx, runtime_inputs, subgraphs
from .layers import LayerCost, ModelCost, Shape, merge_calls
from .onnx_shapes import known_dims, with_shapes

# Operator -> positions of its weight and its bias among its inputs (None: it has no bias).
_CONVOLUTIONS: Final = {"Conv": (1, 2), "ConvInteger": (1, None), "QLinearConv": (3, 8), "ConvTranspose": (1, 2)}
_PRODUCTS: Final = {"Gemm": (1, 2), "MatMul": (1, None), "MatMulInteger": (1, None), "QLinearMatMul": (3, None)}
_POINTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Reciprocal"})
# Inputs that are not parameters: statistics of BatchNormalization, scales and zero points, sizes.
_NON_PARAMETER_INPUTS: Final = {
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
    """The cost of the model in an ONNX file for one image.

    Of an ``If`` the dearer branch counts: the MACs of a routed file are those of its dearest route. Parameters are the
    elements of stored weights: of a BatchNorm that was folded into a convolution, only the bias.

    Args:
        image: (C, H, W), for a file that takes images of any size.

    Raises:
        ExportError: the file is missing or is not an ONNX file; its input is not images, or not of size ``image``; a
            shape in it is unknown; or the number of calls of a layer depends on the data.
    """
    try:
        shaped = with_shapes(path, image, needed=_layer_values)
        scope = _CostScope(path, shaped.dims, {})
        layers = merge_calls(_layers(shaped.graph, scope), shaped.batch)
    except (LookupError, ArithmeticError, ValueError, TypeError) as error:  # a node without inputs, sizes of zero
        raise ExportError(f"{path} is not well-formed ({' '.join(str(error).split())}): export it again") from error
    return ModelCost(
        macs=sum(layer.macs for layer in layers), params=_count_params(shaped.graph), layers=layers, image=shaped.image
    )


def onnx_bytes(path: Path) -> int:
    """Bytes on the disk of an ONNX file and of the files beside it with its weights.

    Raises:
        ExportError: one of them is missing.
    """
    proto = read_onnx(path, external=False)
    beside = {
        entry.value
        for graph in nested_graphs(proto.graph)
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
    """The shapes and the constants that the nodes of a graph can refer to."""

    path: Path
    dims: dict[str, tuple[int, ...]]
    stored: dict[str, str]  # constant value -> the initializer that it comes from

    def shape(self, name: str, node: Any) -> tuple[int, ...]:
        if name not in self.dims:
            raise ExportError(
                f"{self.path}: the shape of '{name}' at {node.op_type} '{node.name}' is not known, so its MACs cannot "
                "be counted: export the model without operators of other domains than ONNX's own"
            )
        return self.dims[name]


def _layer_values(node: Any) -> list[str]:
    """The values whose shapes determine the cost of a node; none for a node that is not a layer."""
    if node.domain not in ("", "ai.onnx"):
        return []
    weight = next((kinds[node.op_type][0] for kinds in (_CONVOLUTIONS, _PRODUCTS) if node.op_type in kinds), None)
    return [] if weight is None else [node.input[0], node.input[weight], node.output[0]]


def _layers(graph: Any, outer: _CostScope) -> Iterator[LayerCost]:
    """The convolution and linear layers that run, in the order of the graph; once per call of a layer."""
    scope = _CostScope(outer.path, {**outer.dims, **known_dims(graph)}, dict(outer.stored))
    scope.stored |= {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS and node.domain in ("", "ai.onnx"):
            yield _convolution_cost(node, scope)
        elif node.op_type in _PRODUCTS and node.domain in ("", "ai.onnx"):
            yield from _product_cost(node, scope)
        elif inner := list(subgraphs(node)):
            branches = [list(_layers(branch, scope)) for branch in inner]
            if node.op_type != "If" and any(branches):
                raise ExportError(
                    f"{scope.path}: {node.op_type} '{node.name}' repeats layers a number of times that depends on the "
                    "data: their MACs cannot be counted"
                )
            yield from max(branches, key=lambda layers: sum(layer.macs for layer in layers))
        elif node.op_type == "Constant":
            scope.stored[node.output[0]] = node.output[0]
        elif (inputs := [name for name in node.input if name]) and all(name in scope.stored for name in inputs):
            scope.stored |= dict.fromkeys(node.output, scope.stored[inputs[0]])


def _convolution_cost(node: Any, scope: _CostScope) -> LayerCost:
    position, bias = _CONVOLUTIONS[node.op_type]
    weight = scope.shape(node.input[position], node)
    read, written = scope.shape(node.input[0], node), scope.shape(node.output[0], node)
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    transposed = node.op_type == "ConvTranspose"
    inputs, outputs = (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    applied = read if transposed else written
    positions = applied[0] * math.prod(applied[2:])
    return LayerCost(
        name=_layer_name(node, node.input[position], scope),
        macs=math.prod(weight) * positions,
        params=math.prod(weight) + _bias_size(node, bias, scope),
        inputs=inputs,
        outputs=outputs,
        groups=groups,
        kernel=math.prod(weight[2:]),
        positions=positions,
        reads=read[0] * math.prod(read[2:]),
    )


def _product_cost(node: Any, scope: _CostScope) -> Iterator[LayerCost]:
    position, bias = _PRODUCTS[node.op_type]
    left, right = scope.shape(node.input[0], node), scope.shape(node.input[position], node)
    written = scope.shape(node.output[0], node)
    transposed = {attribute.name: attribute.i for attribute in node.attribute if attribute.name in ("transA", "transB")}
    if node.op_type != "Gemm" and (node.input[0] in scope.stored) == (node.input[position] in scope.stored):
        return  # of two activations, or of two constants: not a layer
    weight = node.input[position] if node.input[position] in scope.stored or node.op_type == "Gemm" else node.input[0]
    inputs = left[0] if transposed.get("transA") else left[-1]
    weight_is_left = weight == node.input[0]
    outputs = left[-2] if weight_is_left else right[-2] if transposed.get("transB") else right[-1]
    positions = math.prod(written) // max(1, outputs)
    size = math.prod(left if weight_is_left else right)
    yield LayerCost(
        name=_layer_name(node, weight, scope),
        macs=math.prod(written) * inputs,
        params=size + _bias_size(node, bias, scope),
        inputs=inputs,
        outputs=outputs,
        positions=positions,
        reads=positions,
    )


def _bias_size(node: Any, position: int | None, scope: _CostScope) -> int:
    if position is None or len(node.input) <= position or node.input[position] not in scope.stored:
        return 0
    return math.prod(scope.shape(node.input[position], node))


def _layer_name(node: Any, weight: str, scope: _CostScope) -> str:
    """A layer's name in the exported model: from its weight, else from its node (``/features/0/Conv``)."""
    stored = scope.stored.get(weight, "").removesuffix("_quantized")
    if stored.endswith(".weight"):
        return stored.removesuffix(".weight")
    module, slash, operator = str(node.name).rpartition("/")
    if slash and operator.partition(".")[0].startswith(node.op_type):
        return module.strip("/")
    return str(node.name) or str(node.output[0])


def _count_params(graph: Any) -> int:
    """Elements of stored weights, without statistics, quantization parameters and normalisation of the image."""
    onnx = importlib.import_module("onnx")
    kinds = onnx.TensorProto.DataType
    tensors: dict[str, Any] = {}
    excluded: set[str] = set()
    for each in nested_graphs(graph):
        tensors |= {tensor.name: tensor for tensor in each.initializer}
        for node in each.node:
            if node.op_type == "Constant":
                tensors.update((node.output[0], value.t) for value in node.attribute if value.name == "value")
            positions: Sequence[int] = _NON_PARAMETER_INPUTS.get(node.op_type, ())
            excluded |= {node.input[index] for index in positions if index < len(node.input)}
    excluded |= _normalisation_values(graph, set(tensors))
    return sum(
        math.prod(tensor.dims)
        for name, tensor in tensors.items()
        if name not in excluded
        and len(tensor.dims) > 0
        and ("FLOAT" in (kind := kinds.Name(tensor.data_type)) or kind in ("DOUBLE", *_INTEGER_WEIGHTS))
    )


def _normalisation_values(graph: Any, stored: set[str]) -> set[str]:
    """The stored values that shift and scale the image before the first layer."""
    image = {value.name for value in runtime_inputs(graph)}
    normalisation: set[str] = set()
    for node in graph.node:
        if node.op_type in _POINTWISE and image & {*node.input}:
            image |= {*node.output}
            normalisation |= {name for name in node.input if name in stored}
    return normalisation
