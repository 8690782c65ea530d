"""Parameters of an ONNX graph: elements of stored weights."""

from __future__ import annotations

import importlib
import math
from typing import Any, Final

from ..onnx_files.graph import nested_graphs, runtime_inputs
from .onnx_operators import NON_PARAMETER_INPUTS, PACKED, kind_of

_POINTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Reciprocal"})
_INTEGER_WEIGHTS: Final = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"})
# Operator -> position of an input that is a bias in whole numbers.
_INTEGER_BIASES: Final = {"DequantizeLinear": 0, "QLinearConv": 8, "QGemm": 6}


def count_onnx_params(graph: Any) -> int:
    """Elements of stored weights, without statistics, quantization parameters and normalisation of the image."""
    kinds = importlib.import_module("onnx").TensorProto.DataType
    tensors: dict[str, tuple[tuple[int, ...], str]] = {}
    excluded: set[str] = set()
    biases: set[str] = set()
    packed: dict[str, int] = {}
    for each in nested_graphs(graph):
        tensors |= {tensor.name: (tuple(tensor.dims), kinds.Name(tensor.data_type)) for tensor in each.initializer}
        for sparse in each.sparse_initializer:
            tensors[sparse.values.name] = (tuple(sparse.dims), kinds.Name(sparse.values.data_type))
        for node in each.node:
            if node.op_type == "Constant":
                for value in node.attribute:
                    if value.name == "value":
                        tensors[node.output[0]] = (tuple(value.t.dims), kinds.Name(value.t.data_type))
                    elif value.name == "sparse_value":
                        sparse = value.sparse_tensor
                        tensors[node.output[0]] = (tuple(sparse.dims), kinds.Name(sparse.values.data_type))
            positions = NON_PARAMETER_INPUTS.get(node.op_type, ())
            excluded |= {node.input[index] for index in positions if index < len(node.input)}
            bias = _INTEGER_BIASES.get(node.op_type, len(node.input))
            biases |= {*node.input[bias : bias + 1]}
            if (operands := PACKED.get(kind_of(node))) is not None:
                sizes = {value.name: int(value.i) for value in node.attribute}
                packed[node.input[operands.weight]] = sizes["K"] * sizes["N"]
    excluded |= _normalisation_values(graph, set(tensors))
    return sum(packed.values()) + sum(
        math.prod(dims)
        for name, (dims, kind) in tensors.items()
        if name not in excluded and dims and (_is_weight_kind(kind) or (name in biases and kind == "INT32"))
    )


def _is_weight_kind(kind: str) -> bool:
    return "FLOAT" in kind or kind == "DOUBLE" or kind in _INTEGER_WEIGHTS


def _normalisation_values(graph: Any, stored: set[str]) -> set[str]:
    """The stored values that shift and scale the image before the first layer."""
    image = {value.name for value in runtime_inputs(graph)}
    normalisation: set[str] = set()
    for node in graph.node:
        if node.op_type in _POINTWISE and image & {*node.input}:
            image |= {*node.output}
            normalisation |= {name for name in node.input if name in stored}
    return normalisation
