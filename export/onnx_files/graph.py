"""ONNX files opened; what is done to a graph that torch's exporter made, and what is asked of one that anybody made."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import read_bytes

from .contents import check_contents

BATCH = "batch"
_MOST = 2**31 - 1  # bytes of a message of protobuf


def import_onnx() -> Any:
    """The onnx package, or one sentence on how to get it."""
    try:
        importlib.import_module("onnxscript")  # torch's exporter needs it, and says so only deep inside
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.checker")
        importlib.import_module("onnx.shape_inference")
    except ImportError as error:
        raise ExportError(f"ONNX files need {error.name}: pip install onnx onnxscript") from error
    return onnx


def read_onnx(path: Path, *, external: bool = True) -> Any:
    """The ONNX model stored at ``path``; reading needs the onnx package alone, not the exporter's.

    Args:
        external: with the weights that lie in files beside it, too.

    Raises:
        ExportError: the file is missing, is no ONNX file, or holds what ``check_contents`` refuses.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise ExportError("ONNX files need onnx: pip install onnx") from error
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.ModelProto.FromString(read_bytes(path, _MOST))
    except FileNotFoundError as error:
        raise ExportError(f"there is no {path}: export the model to onnx first") from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except decode_error as error:
        raise ExportError(f"{path} is no ONNX file, or only a part of one: export the model again") from error
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
    """ONNX Runtime's errors: they share no base class of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def name_layers_(graph: Any) -> None:
    """Name each node after the layer that it computes: profilers, engines and ``first_difference`` then say it."""
    stored = {tensor.name for tensor in graph.initializer}
    taken: Counter[str] = Counter()
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 and node.input[1] in stored else ""
        # BatchNorm was folded into its convolution, whose weight still has its own name.
        layer = weight.removesuffix(".weight") if weight.endswith(".weight") else _module(node)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name] - 1}"


def _module(node: Any) -> str:
    """The module in whose forward() the exporter met a node: the last but one of its scopes."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith(".name_scopes")), "[]")
    return str((["", "", *ast.literal_eval(scopes)])[-2])


def with_constant_shapes_(graph: Any) -> None:
    """Give every reshape of which one size alone is looked up, the batch's, a stored shape with -1 in its place.

    Newer versions of torch's exporter do so by themselves; that of 2.11 computes the shape from the input's.
    """
    numpy, helper = importlib.import_module("numpy"), importlib.import_module("onnx.numpy_helper")
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    for value in graph.output:
        readers.setdefault(value.name, []).append((value, 0))
    looked_up = {node.output[0]: node for node in graph.node if node.op_type == "Shape" and _gives_one(node)}
    for node in [node for node in graph.node if node.op_type == "Concat"]:
        of_shapes = all(
            getattr(reader, "op_type", "") == "Reshape" and at == 1 for reader, at in readers.get(node.output[0], ())
        )
        unknown = [name for name in node.input if name not in stored]
        if not of_shapes or len(unknown) != 1 or unknown[0] not in looked_up:
            continue
        sizes = [[-1] if name in looked_up else helper.to_array(stored[name]) for name in node.input]
        shape = numpy.concatenate(sizes).astype(numpy.int64)
        if (shape == -1).sum() != 1 or (shape == 0).any():
            continue
        graph.initializer.append(helper.from_array(shape, node.output[0]))
        graph.node.remove(node)
        for name in set(node.input):
            readers[name] = [(reader, at) for reader, at in readers[name] if reader is not node]
            if not readers[name]:
                (graph.initializer if name in stored else graph.node).remove(stored.get(name) or looked_up[name])


def _gives_one(shape: Any) -> bool:
    """Whether a Shape node gives one size, by its ``start`` and ``end``."""
    bounds = {attribute.name: attribute.i for attribute in shape.attribute}
    return "end" in bounds and bounds["end"] - bounds.get("start", 0) == 1


def tidy_(proto: Any) -> None:
    """Name the free dimension and drop the exporter's notes: they hold paths of the machine it ran on."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = BATCH
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
    for holder in (graph, proto):
        del holder.metadata_props[:]
        holder.doc_string = ""


def training_nodes(graph: Any) -> list[str]:
    """Operators of a graph (and of its branches) that compute what only training needs, as ``Dropout 'name'``."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].HasField("t")]
    stored |= {node.output[0]: node.attribute[0].t for node in constants}
    found = []
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = stored.get(node.input[2])
            trains = mode is None or any(mode.raw_data) or any(mode.int32_data)
        else:
            trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if trains:
            found.append(f"{node.op_type} '{node.name}'")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += training_nodes(attribute.g)
    return found
