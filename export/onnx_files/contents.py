"""Checks of an untrusted ONNX file before it is used: paths of weights, tensor sizes, functions, stored engines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import path_inside, printable

_MAX_NODES: Final = 1_000_000
_MAX_ELEMENTS: Final = 2**36
_MAX_BATCH_ELEMENTS, _MAX_IMAGE_ELEMENTS = 2**28, 2**24  # 1 GiB of float32, and 2,364 x 2,364 pixels
_EXTERNAL: Final = 1  # TensorProto.DataLocation
# Bytes of an element by TensorProto.DataType; types that pack several into a byte are left to ONNX Runtime.
_ITEMSIZE: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}


def check_contents(proto: Any, path: Path) -> None:
    """Refuse a file that no exporter writes and that would exhaust the machine or reach outside of its folder.

    Raises:
        ExportError: weights outside of the file's folder, tensors whose data do not fit their shape, shapes too large
            for any machine, functions that call themselves or expand to millions of nodes, or a stored engine.
    """
    for graph in _graphs(proto):
        for tensor in _tensors(graph):
            _check_tensor(tensor, path)
        for value in (*graph.value_info, *graph.input, *graph.output):
            _check_value(value, path)
        for node in graph.node:
            if node.op_type == "EPContext":
                raise ExportError(
                    f"{path}: node '{printable(node.name)}' holds a compiled engine, which could be code: export it as "
                    "a plain graph"
                )
    _check_functions(proto, path)


def check_image(path: Path, sizes: Sequence[int]) -> None:
    """Refuse an input shape (batch, C, H, W) that is larger than any batch of images; 1 stands for a free size.

    Raises:
        ExportError: it is larger.
    """
    if math.prod(sizes) > _MAX_BATCH_ELEMENTS or math.prod(sizes[1:]) > _MAX_IMAGE_ELEMENTS:
        shown = " x ".join(map(str, sizes))
        raise ExportError(f"{path} takes {shown} numbers at once, which no batch of images has: export it again")


def _graphs(proto: Any) -> Iterator[Any]:
    """Every graph and function body; the depth is bounded, as protobuf reads at most a hundred levels."""
    stack = [proto.graph, *proto.functions]
    stack += [graph for info in proto.training_info for graph in (info.initialization, info.algorithm)]
    while stack:
        graph = stack.pop()
        yield _Body(graph)
        for node in graph.node:
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs


class _Body:
    """The fields that graphs and function bodies share; a function has neither weights nor typed inputs."""

    def __init__(self, graph: Any) -> None:
        typed = hasattr(graph, "initializer")
        self.node = graph.node
        self.initializer = graph.initializer if typed else ()
        self.sparse = graph.sparse_initializer if typed else ()
        self.input: Sequence[Any] = graph.input if typed else ()
        self.output: Sequence[Any] = graph.output if typed else ()
        self.value_info: Sequence[Any] = getattr(graph, "value_info", ())


def _tensors(graph: _Body) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)


def _check_tensor(tensor: Any, path: Path) -> None:
    name, dims = printable(tensor.name), list(tensor.dims)
    elements = math.prod(dims)
    if any(size < 0 for size in dims) or elements > _MAX_ELEMENTS:
        raise ExportError(
            f"{path}: tensor '{name}' has shape {_shape_text(dims)}, which no machine holds: export it again"
        )
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        needed = elements * _ITEMSIZE.get(tensor.data_type, 0)
        _check_external({entry.key: entry.value for entry in tensor.external_data}, name, needed, path)
    elif tensor.raw_data and len(tensor.raw_data) != elements * _ITEMSIZE.get(tensor.data_type, 0) != 0:
        raise ExportError(
            f"{path}: tensor '{name}' has shape {_shape_text(dims)} and {len(tensor.raw_data):,} bytes of data, which "
            "do not fit: export it again"
        )


def _check_external(given: dict[str, str], name: str, needed: int, path: Path) -> None:
    location = given.get("location", "")
    beside = path_inside(path.parent, location)
    if beside is None:
        raise ExportError(
            f"{path} keeps tensor '{name}' in '{printable(location)}', which is not below its own folder: put the "
            "weights beside the file, or into it"
        )
    if beside.exists() and not beside.is_file():
        raise ExportError(f"{path} keeps tensor '{name}' in '{printable(location)}', which is not a file: copy both")
    try:
        offset, length = int(given.get("offset") or 0), int(given.get("length") or needed)
    except ValueError:
        offset = length = -1
    size = beside.stat().st_size if beside.is_file() else None  # a missing file is reported on reading
    if offset < 0 or length < needed or (size is not None and offset + length > size):
        raise ExportError(
            f"{path} keeps tensor '{name}' in '{printable(location)}', which does not hold as much: copy both again"
        )


def _check_value(value: Any, path: Path) -> None:
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    if any(size < 0 for size in dims) or math.prod(dims) > _MAX_ELEMENTS:
        name, shape = printable(value.name), _shape_text(dims)
        raise ExportError(f"{path}: value '{name}' has shape {shape}, which no machine holds: export it again")


def _shape_text(dims: Sequence[int]) -> str:
    return " x ".join(map(str, dims[:8])) + (" x ..." if len(dims) > 8 else "")


def _check_functions(proto: Any, path: Path) -> None:
    """Bound the number of nodes after inlining all functions, and refuse recursive ones."""
    bodies = {(function.domain, function.name): function for function in proto.functions}
    counts: dict[tuple[str, str], int] = {}
    active: set[tuple[str, str]] = set()

    def inlined_nodes(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += function_nodes(key) if key in bodies else 1
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                total += sum(inlined_nodes(graph.node) for graph in inner)
            if total > _MAX_NODES:
                raise ExportError(f"{path} expands to more than {_MAX_NODES:,} nodes: export it again")
        return total

    def function_nodes(key: tuple[str, str]) -> int:
        if key in active or len(active) > 100:
            raise ExportError(f"{path}: function '{printable(key[1])}' calls itself: export it again")
        if key not in counts:
            active.add(key)
            counts[key] = max(1, inlined_nodes(bodies[key].node))
            active.discard(key)
        return counts[key]

    inlined_nodes(proto.graph.node)
    for key in bodies:
        function_nodes(key)
