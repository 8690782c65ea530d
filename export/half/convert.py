"""Conversion of an ONNX graph to FP16, which strongly typed TensorRT networks need (they have no FP16 flag).

ONNX Runtime's own converter does this for plain graphs, but casts a value that overflows FP16 to FP16 between two
nodes that are kept in FP32, and cannot keep nodes inside of `If` branches in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

from ..onnx_files.graph import HEAVY_OPERATORS, count_reads, import_onnx, nested_graphs, subgraphs
from ..onnx_files.value_types import FLOAT, HALF, OperatorSchemas, value_types

FP16_MAX = float(np.finfo(np.float16).max)

_SUFFIX = {HALF: "half", FLOAT: "single"}


@dataclass(frozen=True)
class HalfGraph:
    """A model in FP16, its convolutions and matrix products by what they compute in, and the values kept in FP32."""

    proto: Any
    fp16_nodes: tuple[str, ...]
    fp32_nodes: tuple[str, ...]
    kept_fp32: tuple[str, ...]


def to_half(proto: Any, keep_fp32: Collection[str] = ()) -> HalfGraph:
    """A copy of a float32 model whose nodes compute in FP16; inputs and outputs keep their types.

    Args:
        proto: the model; `If` may be nested, other operators with subgraphs are refused.
        keep_fp32: names of values that overflow FP16: nodes that write or read one compute in FP32. Constants beyond
            FP16's range are added here.

    Raises:
        ExportError: an operator other than `If` has a subgraph, or is unknown.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    types = value_types(copy)
    caster = _Caster(onnx, OperatorSchemas(copy), types, set(keep_fp32))
    scope = _CastScope(onnx, None)
    for value in copy.graph.input:
        scope.types[value.name] = types[value.name]
    caster.cast_(copy.graph, scope)
    _restore_outputs_(onnx, copy.graph, scope)
    _drop_unread_constants_(copy.graph)
    return HalfGraph(copy, tuple(caster.heavy[HALF]), tuple(caster.heavy[FLOAT]), tuple(sorted(caster.kept_fp32)))


class _CastScope:
    """The values that the nodes of a graph can read: its own, then those of the graph around it."""

    def __init__(self, onnx: Any, parent: _CastScope | None) -> None:
        self.onnx, self.parent = onnx, parent
        self.types: dict[str, int] = {}  # current type of each value
        self.copies: dict[tuple[str, int], str] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.nodes: list[Any] = []
        self.added: list[Any] = []  # initializers

    def owner(self, name: str) -> _CastScope | None:
        """The innermost scope that defines a value."""
        return self if name in self.types else (self.parent.owner(name) if self.parent else None)

    def type_of(self, name: str) -> int:
        """The current type of a value; 0 for an omitted input."""
        owner = self.owner(name)
        return owner.types[name] if owner else 0

    def find_copy(self, name: str, dtype: int) -> str | None:
        """A copy of a value in another type that nodes of this scope can read."""
        copy = self.copies.get((name, dtype))
        return copy if copy or not self.parent else self.parent.find_copy(name, dtype)

    def as_type(self, name: str, dtype: int) -> str:
        """The name of a float value in type ``dtype``; adds a cast where there is none yet."""
        owner = self.owner(name)
        if owner is None or owner.types[name] == dtype:
            return name
        existing = self.find_copy(name, dtype)
        if existing:
            return existing
        copy = f"{name}/{_SUFFIX[dtype]}"
        array = owner.constants.get(name)
        if array is not None:
            owner.copies[name, dtype] = copy
            owner.added.append(self.onnx.numpy_helper.from_array(array.astype(np.float16), copy))
            return copy
        copy = copy if owner is self else f"{copy}/{id(self)}"  # sibling branches need copies of their own
        self.copies[name, dtype] = copy
        self.nodes.append(self.onnx.helper.make_node("Cast", [name], [copy], name=copy, to=dtype))
        return copy


class _Caster:
    """Walks a graph in its order and chooses FP16 or FP32 for each node."""

    def __init__(self, onnx: Any, schemas: OperatorSchemas, types: Mapping[str, int], kept_fp32: set[str]) -> None:
        self.onnx, self.schemas, self.types, self.kept_fp32 = onnx, schemas, types, kept_fp32
        self.heavy: dict[int, list[str]] = {HALF: [], FLOAT: []}

    def cast_(self, graph: Any, scope: _CastScope) -> None:
        """Rewrite one graph; its values keep their names."""
        for tensor in graph.initializer:
            scope.types[tensor.name] = tensor.data_type
            if tensor.data_type == FLOAT:
                self._constant(scope, tensor.name, self.onnx.numpy_helper.to_array(tensor))
        for node in graph.node:
            node.name = node.name or f"node_of_{node.output[0]}"
            if node.op_type == "If":
                self._cast_if_(node, scope)
            elif any(True for _ in subgraphs(node)):
                raise ExportError(f"node '{node.name}' is a {node.op_type}, which has no FP16 form here: build in fp32")
            else:
                self._cast_node_(node, scope)
        del graph.node[:]
        graph.node.extend(scope.nodes)
        graph.initializer.extend(scope.added)
        del graph.value_info[:]

    def _constant(self, scope: _CastScope, name: str, array: NDArray[Any]) -> None:
        scope.constants[name] = array
        if np.abs(array).max(initial=0) > FP16_MAX:
            self.kept_fp32.add(name)

    def _cast_node_(self, node: Any, scope: _CastScope) -> None:
        if node.op_type == "Constant" and self.types[node.output[0]] == FLOAT:
            value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            if value is not None:
                self._constant(scope, node.output[0], self.onnx.numpy_helper.to_array(value))
        formal = self.schemas.inputs(node)
        floats = [index for index, name in enumerate(node.input) if self.types.get(name) == FLOAT]
        outputs = self.schemas.outputs(node)
        # Type variables that an input and an output share: the node computes in them.
        computed = {formal[index] for index in floats} & set(outputs)
        if not computed:
            self._cast_inputs_(node, floats, formal, scope)
        else:
            half = all(self.schemas.takes_half(node, variable) for variable in computed)
            half = half and not self.kept_fp32.intersection((*node.input, *node.output))
            for index in floats:
                dtype = HALF if half and formal[index] in computed else FLOAT
                node.input[index] = scope.as_type(node.input[index], dtype)
            if node.op_type in HEAVY_OPERATORS:
                self.heavy[HALF if half else FLOAT].append(node.name)
            computed = computed if half else set()
        scope.nodes.append(node)
        for variable, name in zip(outputs, node.output, strict=True):
            scope.types[name] = HALF if variable in computed else self.types.get(name, 0)

    def _cast_inputs_(self, node: Any, floats: list[int], formal: list[str], scope: _CastScope) -> None:
        """Inputs of a node whose outputs have another type (shape, comparison, cast): FP16 only if all are already."""
        dtypes = {scope.type_of(node.input[index]) for index in floats}
        half = dtypes == {HALF} and all(self.schemas.takes_half(node, formal[index]) for index in floats)
        for index in floats:
            node.input[index] = scope.as_type(node.input[index], HALF if half else FLOAT)

    def _cast_if_(self, node: Any, scope: _CastScope) -> None:
        """Both branches return the same types: FP16, except for outputs that overflow it."""
        dtypes = [
            (FLOAT if name in self.kept_fp32 else HALF) if self.types[name] == FLOAT else self.types[name]
            for name in node.output
        ]
        for graph in subgraphs(node):
            inner = _CastScope(self.onnx, scope)
            self.cast_(graph, inner)
            count = len(inner.nodes), len(inner.added)
            for value, dtype in zip(graph.output, dtypes, strict=True):
                if dtype in _SUFFIX:
                    value.name = inner.as_type(value.name, dtype)
                    value.type.tensor_type.elem_type = dtype
            graph.node.extend(inner.nodes[count[0] :])
            graph.initializer.extend(inner.added[count[1] :])
        scope.nodes.append(node)
        scope.types.update(zip(node.output, dtypes, strict=True))


def _restore_outputs_(onnx: Any, graph: Any, scope: _CastScope) -> None:
    """Cast outputs that are now FP16 back to float32, under their own names."""
    for value in graph.output:
        if scope.type_of(value.name) == HALF:
            inner = f"{value.name}/half"
            _rename_value_(graph, value.name, inner)
            graph.node.append(onnx.helper.make_node("Cast", [inner], [value.name], name=f"{value.name}/cast", to=FLOAT))


def _rename_value_(graph: Any, old: str, new: str) -> None:
    for inner in nested_graphs(graph):
        for node in inner.node:
            for field in (node.input, node.output):
                for index, name in enumerate(field):
                    if name == old:
                        field[index] = new


def _drop_unread_constants_(graph: Any) -> None:
    """Drop the constants of which only FP16 copies are read."""
    read = count_reads(graph)
    for inner in nested_graphs(graph):
        tensors = [tensor for tensor in inner.initializer if tensor.name in read]
        del inner.initializer[:]
        inner.initializer.extend(tensors)
        nodes = [node for node in inner.node if node.op_type != "Constant" or node.output[0] in read]
        del inner.node[:]
        inner.node.extend(nodes)
