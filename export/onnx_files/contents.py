"""What an ONNX file may hold before anything is computed from it: its weights beside it, sizes that can be true."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import path_inside, printable

_MOST_NODES: Final = 1_000_000
_MOST_ELEMENTS: Final = 2**36
_MOST_BATCH, _MOST_IMAGE = 2**28, 2**24  # numbers: 1 GiB of float32, and 2,364 x 2,364 pixels
_EXTERNAL: Final = 1  # TensorProto.DataLocation
# Bytes of an element by TensorProto.DataType; what packs several into a byte is left to ONNX Runtime.
_BYTES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}


def check_contents(proto: Any, path: Path) -> None:
    """Refuse what no exporter writes and what would cost the machine dearly to find out otherwise.

    Raises:
        ExportError: weights outside of the file's folder, tensors with other sizes than their data, sizes that no
            machine holds, functions that call themselves or unfold to millions of nodes, or a stored engine.
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
    """Refuse an input (batch, C, H, W), 1 where any is taken, that is larger than any batch of images.

    Raises:
        ExportError: it is.
    """
    if math.prod(sizes) > _MOST_BATCH or math.prod(sizes[1:]) > _MOST_IMAGE:
        shown = " x ".join(map(str, sizes))
        raise ExportError(f"{path} takes {shown} numbers at once, which no batch of images has: export it again")


def _graphs(proto: Any) -> Iterator[Any]:
    """Every graph and function body. Their depth is bounded: protobuf reads no more than a hundred levels."""
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
    """A graph, or a function's body, which has neither weights nor typed inputs."""

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
    if any(size < 0 for size in dims) or elements > _MOST_ELEMENTS:
        raise ExportError(f"{path}: tensor '{name}' has shape {_shown(dims)}, which no machine holds: export it again")
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        needed = elements * _BYTES.get(tensor.data_type, 0)
        _check_external({entry.key: entry.value for entry in tensor.external_data}, name, needed, path)
    elif tensor.raw_data and len(tensor.raw_data) != elements * _BYTES.get(tensor.data_type, 0) != 0:
        raise ExportError(
            f"{path}: tensor '{name}' has shape {_shown(dims)} and {len(tensor.raw_data):,} bytes of data, which "
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
        raise ExportError(f"{path} keeps tensor '{name}' in '{printable(location)}', which is no file: copy both")
    try:
        offset, length = int(given.get("offset") or 0), int(given.get("length") or needed)
    except ValueError:
        offset = length = -1
    size = beside.stat().st_size if beside.is_file() else None  # whoever reads it says that it is missing
    if offset < 0 or length < needed or (size is not None and offset + length > size):
        raise ExportError(
            f"{path} keeps tensor '{name}' in '{printable(location)}', which does not hold as much: copy both again"
        )


def _check_value(value: Any, path: Path) -> None:
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    if any(size < 0 for size in dims) or math.prod(dims) > _MOST_ELEMENTS:
        raise ExportError(
            f"{path}: value '{printable(value.name)}' has shape {_shown(dims)}, which no machine holds: export it again"
        )


def _shown(dims: Sequence[int]) -> str:
    return " x ".join(map(str, dims[:8])) + (" x ..." if len(dims) > 8 else "")


def _check_functions(proto: Any, path: Path) -> None:
    """Count the nodes that there are once every call of a function is written out in its place."""
    bodies = {(function.domain, function.name): function for function in proto.functions}
    counts: dict[tuple[str, str], int] = {}
    running: set[tuple[str, str]] = set()

    def unfolded(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += of_function(key) if key in bodies else 1
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                total += sum(unfolded(graph.node) for graph in inner)
            if total > _MOST_NODES:
                raise ExportError(f"{path} unfolds to more than {_MOST_NODES:,} nodes: export it again")
        return total

    def of_function(key: tuple[str, str]) -> int:
        if key in running or len(running) > 100:
            raise ExportError(f"{path}: function '{printable(key[1])}' calls itself: export it again")
        if key not in counts:
            running.add(key)
            counts[key] = max(1, unfolded(bodies[key].node))
            running.discard(key)
        return counts[key]

    unfolded(proto.graph.node)
    for key in bodies:
        of_function(key)
