"""Element types of all values of an ONNX model, by its operators' own schemas; branches of `If` included."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from slimsight.compress.errors import ExportError

from .graph import import_onnx

FLOAT, HALF = 1, 10
"""ONNX's numbers of float32 and float16 (TensorProto.DataType)."""


def branches(node: Any) -> Iterator[Any]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


class Signatures:
    """What the operators of one model take and give, as type strings: a variable (``T``) or a type."""

    def __init__(self, proto: Any) -> None:
        self._defs = importlib.import_module("onnx.defs")
        self._versions = {item.domain: item.version for item in proto.opset_import}

    def schema(self, node: Any) -> Any:
        """The schema of a node's operator.

        Raises:
            ExportError: nobody defines the operator.
        """
        try:
            return self._defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
        except self._defs.SchemaError as error:
            where = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise ExportError(f"node '{node.name}' is a {where}, which ONNX does not define") from error

    def inputs(self, node: Any) -> list[str]:
        """The type string of every input; a variadic last one is repeated."""
        return _spread(self.schema(node).inputs, len(node.input))

    def outputs(self, node: Any) -> list[str]:
        """The type string of every output; a variadic last one is repeated."""
        return _spread(self.schema(node).outputs, len(node.output))

    def allowed(self, node: Any, variable: str) -> list[str]:
        """The types that a type variable of a node's operator stands for; a type stands for itself."""
        constraints = self.schema(node).type_constraints
        return next((item.allowed_type_strs for item in constraints if item.type_param_str == variable), [variable])

    def takes_half(self, node: Any, variable: str) -> bool:
        """Whether a type variable of a node's operator may be float16."""
        return "tensor(float16)" in self.allowed(node, variable)


def _spread(formals: Any, count: int) -> list[str]:
    return [formals[min(place, len(formals) - 1)].type_str for place in range(count)]


def value_types(proto: Any) -> dict[str, int]:
    """Element type (TensorProto.DataType) of every tensor, in branches too; 0 for what is no tensor.

    Raises:
        ExportError: an operator is unknown, or a name stands for values of two types.
    """
    types: dict[str, int] = {}
    _visit(import_onnx(), proto.graph, Signatures(proto), types)
    return types


def _visit(onnx: Any, graph: Any, signatures: Signatures, types: dict[str, int]) -> None:
    for value in graph.input:
        _note(types, value.name, value.type.tensor_type.elem_type)
    for tensor in graph.initializer:
        _note(types, tensor.name, tensor.data_type)
    for node in graph.node:
        for inner in branches(node):
            _visit(onnx, inner, signatures, types)
        bound = {
            variable: types[name]
            for variable, name in zip(signatures.inputs(node), node.input, strict=True)
            if types.get(name)
        }
        for place, (variable, name) in enumerate(zip(signatures.outputs(node), node.output, strict=True)):
            if name:
                allowed = signatures.allowed(node, variable)
                _note(types, name, bound.get(variable) or _given(onnx, node, allowed, place, types))


def _given(onnx: Any, node: Any, allowed: list[str], place: int, types: dict[str, int]) -> int:
    """The type of an output that no input decides: fixed by the operator, by an attribute, or by a branch."""
    if len(allowed) == 1:
        kind = allowed[0].removeprefix("tensor(").removesuffix(")").upper()
        return int(onnx.TensorProto.DataType.Value(kind)) if allowed[0].startswith("tensor(") else 0
    inner = next(branches(node), None)
    if inner is not None:
        return types.get(inner.output[place].name, 0)
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype"):
            return int(attribute.i)
        if attribute.name == "value":
            return int(attribute.t.data_type)
    # Constants by value_floats and the like, and operators whose type is float32 when no attribute says another.
    integers = any(attribute.name in ("value_int", "value_ints") for attribute in node.attribute)
    return int(onnx.TensorProto.INT64) if integers else FLOAT


def _note(types: dict[str, int], name: str, kind: int) -> None:
    if types.setdefault(name, kind) != kind:
        raise ExportError(f"'{name}' names values of two types in this graph: export the model again")
