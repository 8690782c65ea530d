"""Reading ONNX files, and queries on their graphs: inputs, subgraphs, readers."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import read_bytes

from .contents import check_contents

IMAGES_INPUT, LOGITS_OUTPUT, ROUTES_OUTPUT = "images", "logits", "routes"
"""Names of the inputs and outputs of exported files; ``routes`` only of dynamic models."""

BATCH_DIM = "batch"
"""Name of the free batch dimension."""

HEAVY_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Convolutions and matrix products, where the time goes."""

MAX_BYTES = 2**31 - 1
"""Of a protobuf message, thus of an ONNX file."""


def import_onnx() -> Any:
    """The onnx package, with the modules that exporting needs.

    Raises:
        ExportError: onnx or onnxscript is missing; the message says how to install it.
    """
    try:
        importlib.import_module("onnxscript")  # torch's exporter needs it, and says so only deep inside
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.checker")
        importlib.import_module("onnx.shape_inference")
    except ImportError as error:
        raise ExportError(f"ONNX files need {error.name}: pip install onnx onnxscript") from error
    return onnx


def read_onnx(path: Path, *, external: bool = True) -> Any:
    """The ModelProto stored at ``path``; needs only the onnx package, not onnxscript.

    Args:
        external: whether to load weights that are stored in files beside it.

    Raises:
        ExportError: the file is missing, is not an ONNX file, or holds what ``check_contents`` refuses.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise ExportError("ONNX files need onnx: pip install onnx") from error
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.ModelProto.FromString(read_bytes(path, MAX_BYTES))
    except FileNotFoundError as error:
        raise ExportError(f"there is no {path}: export the model to onnx first") from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except decode_error as error:
        raise ExportError(f"{path} is not an ONNX file, or only a part of one: export the model again") from error
    check_contents(proto, path)
    if external:
        invalid = importlib.import_module("onnx.checker").ValidationError
        try:
            importlib.import_module("onnx.external_data_helper").load_external_data_for_model(proto, str(path.parent))
        except (OSError, ValueError, invalid) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise ExportError(f"{path} keeps weights beside it that cannot be read ({reason}): copy both") from error
    return proto


def runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exception classes, which share no base class of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def runtime_inputs(graph: Any) -> list[Any]:
    """The inputs that a caller feeds: files of old exporters list stored weights among a graph's inputs, too."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def static_sizes(value: Any) -> tuple[int | None, ...]:
    """The shape that an input or output states; None for a size that is free (symbolic or 0)."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs inside a node, e.g. the branches of an `If`."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def nested_graphs(graph: Any) -> Iterator[Any]:
    """``graph`` and all graphs inside its nodes, recursively."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from nested_graphs(inner)


def count_reads(graph: Any) -> Counter[str]:
    """How often each value is read, in the graph and in all graphs inside it; outputs count too."""
    reads: Counter[str] = Counter()
    for inner in nested_graphs(graph):
        reads.update(value.name for value in inner.output)
        for node in inner.node:
            reads.update(node.input)
    return reads


def external_files(path: Path) -> list[str]:
    """Names, relative to the folder of an ONNX file, of the files beside it that hold its weights.

    Raises:
        ExportError: as ``read_onnx``.
    """
    proto = read_onnx(path, external=False)
    locations = {
        entry.value
        for graph in nested_graphs(proto.graph)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(locations)
