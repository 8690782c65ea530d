"""Element types of all values of an ONNX model, inferred from operator schemas; branches of `If` included."""

from __future__ import annotations

import importlib
from typing import Any

from slimsight.compress.errors import ExportError

from .graph import import_onnx, subgraphs

FLOAT, HALF = 1, 10
"""TensorProto.DataType of float32 and float16."""


class OperatorSchemas:
    """Type strings of the inputs and outputs of a model's operators: a type variable (``T``) or a type."""

    def __init__(self, proto: Any) -> None:
        self._defs = importlib.import_module("onnx.defs")
        self._opset_versions = {item.domain: item.version for item in proto.opset_import}

    def schema(self, node: Any) -> Any:
        """The schema of a node's operator.

        Raises:
            ExportError: ONNX does not define the operator.
        """
        try:
            return self._defs.get_schema(node.op_type, self._opset_versions.get(node.domain, 1), node.domain)
        except self._defs.SchemaError as error:
            where = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise ExportError(f"node '{node.name}' is a {where}, which ONNX does not define") from error

    def inputs(self, node: Any) -> list[str]:
        """The type string of every input; a variadic last one is repeated."""
        return _type_strings(self.schema(node).inputs, len(node.input))

    def outputs(self, node: Any) -> list[str]:
        """The type string of every output; a variadic last one is repeated."""
        return _type_strings(self.schema(node).outputs, len(node.output))

    def allowed(self, node: Any, variable: str) -> list[str]:
        """The types that a type variable of a node's operator may be; of a type, itself."""
        constraints = self.schema(node).type_constraints
        return next((item.allowed_type_strs for item in constraints if item.type_param_str == variable), [variable])

    def takes_half(self, node: Any, variable: str) -> bool:
        """Whether a type variable of a node's operator may be float16."""
        return "tensor(float16)" in self.allowed(node, variable)


def _type_strings(formals: Any, count: int) -> list[str]:
    return [formals[min(index, len(formals) - 1)].type_str for index in range(count)]


def value_types(proto: Any) -> dict[str, int]:
    """Element type (TensorProto.DataType) of each value, in branches too; 0 for a value that is not a tensor.

    Raises:
        ExportError: an operator is unknown, or two values of different types share a name.
    """
    types: dict[str, int] = {}
    _infer(import_onnx(), proto.graph, OperatorSchemas(proto), types)
    return types


def _infer(onnx: Any, graph: Any, schemas: OperatorSchemas, types: dict[str, int]) -> None:
    for value in graph.input:
        _record(types, value.name, value.type.tensor_type.elem_type)
    for tensor in graph.initializer:
        _record(types, tensor.name, tensor.data_type)
    for node in graph.node:
        for inner in subgraphs(node):
            _infer(onnx, inner, schemas, types)
        bound = {
            variable: types[name]
            for variable, name in zip(schemas.inputs(node), node.input, strict=True)
            if types.get(name)
        }
        for index, (variable, name) in enumerate(zip(schemas.outputs(node), node.output, strict=True)):
            if name:
                allowed = schemas.allowed(node, variable)
                _record(types, name, bound.get(variable) or _output_type(onnx, node, allowed, index, types))


def _output_type(onnx: Any, node: Any, allowed: list[str], index: int, types: dict[str, int]) -> int:
    """The type of an output that does not follow its inputs: from the operator, an attribute, or a branch."""
    if len(allowed) == 1:
        kind = allowed[0].removeprefix("tensor(").removesuffix(")").upper()
        return int(onnx.TensorProto.DataType.Value(kind)) if allowed[0].startswith("tensor(") else 0
    inner = next(subgraphs(node), None)
    if inner is not None:
        return types.get(inner.output[index].name, 0)
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype"):
            return int(attribute.i)
        if attribute.name == "value":
            return int(attribute.t.data_type)
    # Constants by value_floats and the like, and operators whose type is float32 unless an attribute sets it.
    integers = any(attribute.name in ("value_int", "value_ints") for attribute in node.attribute)
    return int(onnx.TensorProto.INT64) if integers else FLOAT


def _record(types: dict[str, int], name: str, kind: int) -> None:
    if types.setdefault(name, kind) != kind:
        raise ExportError(f"'{name}' names values of two types in this graph: export the model again")
