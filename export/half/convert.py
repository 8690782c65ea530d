"""An ONNX graph in FP16: what strongly typed TensorRT networks take instead of a builder's flag.

ONNX Runtime's own converter does this for plain graphs, but a value that FP16 cannot hold still passes through FP16
between two nodes that are kept in FP32, and nodes inside of `If` branches cannot be kept at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

from ..onnx_files.graph import import_onnx
from ..onnx_files.value_types import FLOAT, HALF, Signatures, branches, value_types
from ..routed.clusters import names_read

LARGEST = float(np.finfo(np.float16).max)

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that the time goes into."""

_SUFFIX = {HALF: "half", FLOAT: "single"}


@dataclass(frozen=True)
class Half:
    """A graph in FP16, its convolutions and matrix products by what they compute in, and the values kept in FP32."""

    proto: Any
    in_half: tuple[str, ...]
    in_single: tuple[str, ...]
    wide: tuple[str, ...]


def to_half(proto: Any, wide: Collection[str] = ()) -> Half:
    """A copy of a float32 model whose nodes compute in FP16; inputs and outputs keep their types.

    Args:
        proto: the model; `If` may be nested, other operators with graphs inside are refused.
        wide: names of values that FP16 cannot hold: nodes that give or read one compute in FP32. Constants beyond
            FP16's range are found here.

    Raises:
        ExportError: an operator has a graph inside and is no `If`, or is unknown.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    types = value_types(copy)
    caster = _Caster(onnx, Signatures(copy), types, set(wide))
    scope = _CastScope(onnx, None)
    for value in copy.graph.input:
        scope.stored[value.name] = types[value.name]
    caster.cast_(copy.graph, scope)
    _keep_outputs_(onnx, copy.graph, scope)
    _sweep_(copy.graph)
    return Half(copy, tuple(caster.heavy[HALF]), tuple(caster.heavy[FLOAT]), tuple(sorted(caster.wide)))


class _CastScope:
    """The values that the nodes of a graph see: its own, then those of the graph around it."""

    def __init__(self, onnx: Any, parent: _CastScope | None) -> None:
        self.onnx, self.parent = onnx, parent
        self.stored: dict[str, int] = {}  # type of each value as it is now
        self.copies: dict[tuple[str, int], str] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.nodes: list[Any] = []
        self.added: list[Any] = []  # initializers

    def owner(self, name: str) -> _CastScope | None:
        """The nearest scope that has a value."""
        return self if name in self.stored else (self.parent.owner(name) if self.parent else None)

    def type_of(self, name: str) -> int:
        """The type that a value has now; 0 for an input that is left out."""
        owner = self.owner(name)
        return owner.stored[name] if owner else 0

    def known(self, name: str, kind: int) -> str | None:
        """A copy of a value in another type that can be seen from here."""
        found = self.copies.get((name, kind))
        return found if found or not self.parent else self.parent.known(name, kind)

    def as_type(self, name: str, kind: int) -> str:
        """The name under which a float value is ``kind`` here; makes the cast where there is none."""
        owner = self.owner(name)
        if owner is None or owner.stored[name] == kind:
            return name
        found = self.known(name, kind)
        if found:
            return found
        copy = f"{name}/{_SUFFIX[kind]}"
        array = owner.constants.get(name)
        if array is not None:
            owner.copies[name, kind] = copy
            owner.added.append(self.onnx.numpy_helper.from_array(array.astype(np.float16), copy))
            return copy
        copy = copy if owner is self else f"{copy}/{id(self)}"  # branches beside each other make their own
        self.copies[name, kind] = copy
        self.nodes.append(self.onnx.helper.make_node("Cast", [name], [copy], name=copy, to=kind))
        return copy


class _Caster:
    """Walks a graph in its order and decides for each node."""

    def __init__(self, onnx: Any, signatures: Signatures, types: Mapping[str, int], wide: set[str]) -> None:
        self.onnx, self.signatures, self.types, self.wide = onnx, signatures, types, wide
        self.heavy: dict[int, list[str]] = {HALF: [], FLOAT: []}

    def cast_(self, graph: Any, scope: _CastScope) -> None:
        """Rewrite one graph; names of its values stay."""
        for tensor in graph.initializer:
            scope.stored[tensor.name] = tensor.data_type
            if tensor.data_type == FLOAT:
                self._constant(scope, tensor.name, self.onnx.numpy_helper.to_array(tensor))
        for node in graph.node:
            node.name = node.name or f"node_of_{node.output[0]}"
            if node.op_type == "If":
                self._if_(node, scope)
            elif any(True for _ in branches(node)):
                raise ExportError(f"node '{node.name}' is a {node.op_type}, which has no FP16 form here: build in fp32")
            else:
                self._node_(node, scope)
        del graph.node[:]
        graph.node.extend(scope.nodes)
        graph.initializer.extend(scope.added)
        del graph.value_info[:]

    def _constant(self, scope: _CastScope, name: str, array: NDArray[Any]) -> None:
        scope.constants[name] = array
        if np.abs(array).max(initial=0) > LARGEST:
            self.wide.add(name)

    def _node_(self, node: Any, scope: _CastScope) -> None:
        if node.op_type == "Constant" and self.types[node.output[0]] == FLOAT:
            value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            if value is not None:
                self._constant(scope, node.output[0], self.onnx.numpy_helper.to_array(value))
        formal = self.signatures.inputs(node)
        floats = [place for place, name in enumerate(node.input) if self.types.get(name) == FLOAT]
        given = self.signatures.outputs(node)
        # Variables that go through a node, from an input to an output: what it computes in.
        through = {formal[place] for place in floats} & set(given)
        if not through:
            self._reader_(node, floats, formal, scope)
        else:
            half = all(self.signatures.takes_half(node, variable) for variable in through)
            half = half and not self.wide.intersection((*node.input, *node.output))
            for place in floats:
                wanted = HALF if half and formal[place] in through else FLOAT
                node.input[place] = scope.as_type(node.input[place], wanted)
            if node.op_type in HEAVY:
                self.heavy[HALF if half else FLOAT].append(node.name)
            through = through if half else set()
        scope.nodes.append(node)
        for variable, name in zip(given, node.output, strict=True):
            scope.stored[name] = HALF if variable in through else self.types.get(name, 0)

    def _reader_(self, node: Any, floats: list[int], formal: list[str], scope: _CastScope) -> None:
        """A node that gives no float of its inputs' type (shape, comparison, cast): takes them as they come."""
        kinds = {scope.type_of(node.input[place]) for place in floats}
        half = kinds == {HALF} and all(self.signatures.takes_half(node, formal[place]) for place in floats)
        for place in floats:
            node.input[place] = scope.as_type(node.input[place], HALF if half else FLOAT)

    def _if_(self, node: Any, scope: _CastScope) -> None:
        """Both branches give the same types: FP16, but for outputs that are wide."""
        kinds = [
            (FLOAT if name in self.wide else HALF) if self.types[name] == FLOAT else self.types[name]
            for name in node.output
        ]
        for graph in branches(node):
            inner = _CastScope(self.onnx, scope)
            self.cast_(graph, inner)
            count = len(inner.nodes), len(inner.added)
            for value, kind in zip(graph.output, kinds, strict=True):
                if kind in _SUFFIX:
                    value.name = inner.as_type(value.name, kind)
                    value.type.tensor_type.elem_type = kind
            graph.node.extend(inner.nodes[count[0] :])
            graph.initializer.extend(inner.added[count[1] :])
        scope.nodes.append(node)
        scope.stored.update(zip(node.output, kinds, strict=True))


def _keep_outputs_(onnx: Any, graph: Any, scope: _CastScope) -> None:
    """Give back every output under its own name and type."""
    for value in graph.output:
        if scope.type_of(value.name) == HALF:
            inner = f"{value.name}/half"
            _rename_(graph, value.name, inner)
            graph.node.append(onnx.helper.make_node("Cast", [inner], [value.name], name=f"{value.name}/cast", to=FLOAT))


def _rename_(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                if name == old:
                    field[place] = new
        for inner in branches(node):
            _rename_(inner, old, new)


def _sweep_(graph: Any) -> None:
    """Drop the constants that are read only as their FP16 copies."""
    read = names_read(graph)
    _drop_(graph, set(read))


def _drop_(graph: Any, read: set[str]) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for inner in branches(node):
            _drop_(inner, read)
