"""The shapes of an ONNX graph's values for one image: inferred, and measured where they are computed from data."""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError

from ..onnx_files.contents import check_image
from ..onnx_files.graph import read_onnx, runtime_errors
from .layers import Shape

_SECONDS: Final = 60.0  # for one image, where a large network takes one
_LARGE: Final = 4096  # elements: shapes are never computed from a tensor like that


@dataclass(frozen=True)
class Shaped:
    """``graph`` with shapes noted in it, for ``batch`` images (1 unless the file fixes another number) of ``image``.

    ``dims``: shapes that are noted nowhere, by the name of the value.
    """

    graph: Any
    batch: int
    image: Shape
    dims: dict[str, tuple[int, ...]]


def with_shapes(path: Path, image: Shape | None, *, needed: Callable[[Any], Sequence[str]]) -> Shaped:
    """The graph of an ONNX file with its shapes.

    Args:
        image: (C, H, W), for a file that takes images of any size.
        needed: the values of a node whose shapes are wanted. What inference does not say of them is read off one run
            in ONNX Runtime.

    Raises:
        ExportError: the file is missing or no ONNX file; it takes no single image, or of another size than
            ``image``; or its shapes do not fit each other.
    """
    proto = read_onnx(path, external=False)
    if len(proto.functions):
        proto = importlib.import_module("onnx.inliner").inline_local_functions(proto)
    batch, size = _fix_input_(proto.graph, path, image)
    _lighten_(proto.graph)
    inference = importlib.import_module("onnx.shape_inference")
    try:
        graph = inference.infer_shapes(proto, data_prop=True).graph
    except inference.InferenceError as error:
        raise ExportError(f"{path}: its shapes do not fit each other ({_reason(error)}): export it again") from error
    known = known_dims(graph)
    unknown = {name for node in graph.node for name in needed(node)} - set(known)
    return Shaped(graph, batch, size, _measured(path, batch, size, sorted(unknown)) if unknown else {})


def _fix_input_(graph: Any, path: Path, image: Shape | None) -> tuple[int, Shape]:
    """Give the input its size, one image where the batch is free; forget shapes that were noted with a free one."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]  # old files list their weights as inputs
    dims: Any = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else ()
    if len(dims) != 4:
        raise ExportError(f"{path} takes no single input of images (batch, C, H, W): MACs are counted per image")
    found = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims[1:]]
    given = image or (None, None, None)
    for has, wanted in zip(found, given, strict=True):
        if has is not None and wanted is not None and has != wanted:
            shown = "x".join("any" if size is None else str(size) for size in found)
            raise ExportError(f"{path} takes images of {shown}, not {'x'.join(map(str, given))}: leave --input out")
    sizes = [has if has is not None else wanted for has, wanted in zip(found, given, strict=True)]
    if None in sizes:
        raise ExportError(f"{path} takes images of any size: say which MACs are meant, e.g. --input 3x224x224")
    channels, height, width = (int(size) for size in sizes if size is not None)
    batch = dims[0].dim_value if dims[0].HasField("dim_value") and dims[0].dim_value > 0 else 1
    check_image(path, (batch, channels, height, width))
    for dim, size in zip(dims, (batch, channels, height, width), strict=True):
        dim.dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for each in graphs_in(graph):
        del each.value_info[:]
    return batch, (channels, height, width)


def _lighten_(graph: Any) -> None:
    """Drop the values of large tensors: shapes are inferred from their dims, and copying them takes the time."""
    for each in graphs_in(graph):
        for tensor in each.initializer:
            if math.prod(tensor.dims) > _LARGE:
                for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "external_data"):
                    tensor.ClearField(name)
                tensor.ClearField("data_location")


def graphs_in(graph: Any) -> Iterator[Any]:
    """``graph`` and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)


def known_dims(graph: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that a graph states, where every size of them is a number."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = tuple(attribute.t.dims)
    return found


def _measured(path: Path, batch: int, image: Shape, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of ``names`` when the file computes ``batch`` black images.

    Raises:
        ExportError: ONNX Runtime is missing, or cannot run the file.
    """
    numpy = importlib.import_module("numpy")
    proto = read_onnx(path)
    _fix_input_(proto.graph, path, image)
    for name in names:
        proto.graph.output.add().name = name
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ExportError(f"{path} computes shapes while it runs: counting its MACs needs onnxruntime") from error
    ort.set_default_logger_severity(4)
    kinds = importlib.import_module("onnx.helper")
    given = next(value for value in proto.graph.input if value.name not in {t.name for t in proto.graph.initializer})
    dtype = kinds.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    failures: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError, ValueError)
    try:
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found = _run(ort, session, list(names), {given.name: numpy.zeros((batch, *image), dtype)})
    except failures as error:
        raise ExportError(f"{path}: the shapes in it are not known ({_reason(error)}): export it again") from error
    return {name: tuple(value.shape) for name, value in zip(names, found, strict=True)}


def _run(ort: Any, session: Any, names: Sequence[str], given: Any) -> Any:
    """As ``session.run``, ended after ``_SECONDS``: a graph may hold a loop without an end."""
    options = ort.RunOptions()
    clock = threading.Timer(_SECONDS, lambda: setattr(options, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        return session.run(names, given, options)
    finally:
        clock.cancel()


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
