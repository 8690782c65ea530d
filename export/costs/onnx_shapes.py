"""The shapes of an ONNX graph's values for one image: inferred, or measured where they depend on data."""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..onnx_files.contents import check_image
from ..onnx_files.graph import nested_graphs, read_onnx, runtime_errors, runtime_inputs, static_sizes
from ..onnx_files.runtime import import_onnxruntime
from .layers import Shape

_SECONDS: Final = 60.0  # limit for one image; a large network takes one second
_LARGE: Final = 4096  # elements: no shape is computed from a larger tensor


@dataclass(frozen=True)
class ShapedGraph:
    """A graph with inferred shapes, for ``batch`` images (1 unless the file fixes another number) of size ``image``.

    ``dims``: measured shapes of values whose shapes could not be inferred.
    """

    graph: Any
    batch: int
    image: Shape
    dims: dict[str, tuple[int, ...]]


def with_shapes(path: Path, image: Shape | None, *, needed: Callable[[Any], Sequence[str]]) -> ShapedGraph:
    """The graph of an ONNX file with the shapes of its values.

    Args:
        image: (C, H, W), for a file that takes images of any size.
        needed: the values of a graph whose shapes are needed. Those that cannot be inferred are measured in one run
            of ONNX Runtime.

    Raises:
        ExportError: the file is missing or is not an ONNX file; its input is not images, or not of size ``image``; or
            its shapes do not fit each other.
    """
    proto = read_onnx(path, external=False)
    if len(proto.functions):
        proto = importlib.import_module("onnx.inliner").inline_local_functions(proto)
    batch, size = _fix_input_size_(proto.graph, path, image)
    wanted = set(needed(proto.graph))
    _drop_large_values_(proto.graph)
    inference = importlib.import_module("onnx.shape_inference")
    try:
        graph = inference.infer_shapes(proto, data_prop=True).graph
    except inference.InferenceError as error:
        raise ExportError(
            f"{path}: its shapes do not fit each other ({_first_error_line(error)}): export it again"
        ) from error
    unknown = wanted - set(known_dims(graph))
    return ShapedGraph(graph, batch, size, _measure_shapes(path, batch, size, sorted(unknown)) if unknown else {})


def _fix_input_size_(graph: Any, path: Path, image: Shape | None) -> tuple[int, Shape]:
    """Set free sizes of the input (batch size 1), and drop shapes that were inferred with free sizes."""
    inputs = runtime_inputs(graph)
    stated = static_sizes(inputs[0]) if len(inputs) == 1 else ()
    if len(stated) != 4:
        raise ExportError(f"{path} takes no single input of images (batch, C, H, W): MACs are counted per image")
    given = image or (None, None, None)
    for size, wanted in zip(stated[1:], given, strict=True):
        if size is not None and wanted is not None and size != wanted:
            shown = "x".join("any" if size is None else str(size) for size in stated[1:])
            raise ExportError(f"{path} takes images of {shown}, not {'x'.join(map(str, given))}: leave --input out")
    sizes = [size if size is not None else wanted for size, wanted in zip(stated[1:], given, strict=True)]
    if None in sizes:
        raise ExportError(f"{path} takes images of any size: say which MACs are meant, e.g. --input 3x224x224")
    channels, height, width = (int(size) for size in sizes if size is not None)
    batch = stated[0] or 1
    shape = (batch, channels, height, width)
    check_image(path, shape)
    for dim, size in zip(inputs[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for each in nested_graphs(graph):
        del each.value_info[:]
    return batch, (channels, height, width)


def _drop_large_values_(graph: Any) -> None:
    """Drop the values of large tensors: inference needs only their dims, and copying them takes long."""
    for each in nested_graphs(graph):
        for tensor in each.initializer:
            if math.prod(tensor.dims) > _LARGE:
                for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "external_data"):
                    tensor.ClearField(name)
                tensor.ClearField("data_location")


def known_dims(graph: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that a graph states, where all sizes are numbers."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    dims |= {sparse.values.name: tuple(sparse.dims) for sparse in graph.sparse_initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            dims[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                dims[node.output[0]] = tuple(attribute.t.dims)
            elif node.op_type == "Constant" and attribute.name == "sparse_value":
                dims[node.output[0]] = tuple(attribute.sparse_tensor.dims)
    return dims


def _measure_shapes(path: Path, batch: int, image: Shape, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the values ``names``, from a run of the file on ``batch`` black images.

    Raises:
        ExportError: ONNX Runtime is missing, or cannot run the file.
    """
    numpy = importlib.import_module("numpy")
    proto = read_onnx(path)
    _fix_input_size_(proto.graph, path, image)
    for name in names:
        proto.graph.output.add().name = name
    try:
        ort = import_onnxruntime()
    except RuntimeMissing as error:
        raise ExportError(
            f"{path} computes shapes while it runs, and counting its MACs has to run it: {error}"
        ) from error
    helper = importlib.import_module("onnx.helper")
    (input_,) = runtime_inputs(proto.graph)
    dtype = helper.tensor_dtype_to_np_dtype(input_.type.tensor_type.elem_type)
    failures: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError, ValueError)
    try:
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        values = _run_with_timeout(ort, session, list(names), {input_.name: numpy.zeros((batch, *image), dtype)})
    except failures as error:
        raise ExportError(
            f"{path}: the shapes in it are not known ({_first_error_line(error)}): export it again"
        ) from error
    return {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}


def _run_with_timeout(ort: Any, session: Any, names: Sequence[str], feeds: Any) -> Any:
    """``session.run``, terminated after ``_SECONDS``: a graph may contain an endless loop."""
    options = ort.RunOptions()
    timer = threading.Timer(_SECONDS, lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return session.run(names, feeds, options)
    finally:
        timer.cancel()


def _first_error_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
