"""Quantisation of an FP32 ONNX file to INT8 in Q/DQ form, by ``onnxruntime.quantization``.

One file cannot serve every runtime: ONNX Runtime on a processor wants unsigned asymmetric activations (``u8``), and
TensorRT takes symmetric ones without integer biases only (``s8``). Weights are int8, one scale for each output channel:
one scale for a whole tensor ruins depthwise convolutions.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.files.atomic import atomic_path

from ..onnx_files.graph import MAX_BYTES, nested_graphs, read_onnx, runtime_errors, runtime_inputs, subgraphs
from ..onnx_files.metadata import PRECISION, stored_metadata, write_metadata_
from ..onnx_files.quantised import (
    CALIBRATION_DIGEST,
    CALIBRATION_IMAGES,
    CALIBRATION_SOURCE,
    FORM,
    INT8,
    METHOD,
    PURPOSE,
    PURPOSES,
    Form,
    Method,
    heavy_layers,
    quantised_nodes,
)
from ..onnx_files.value_types import HALF
from ..runners import import_onnxruntime
from ..runners.inputs import ImageInput, read_input
from .calibration import BatchReader, Calibration

LEAST_OPSET = 13
"""The first with a scale for each channel in DequantizeLinear."""

_METHODS: Mapping[Method, str] = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_OPTIONS: Mapping[Form, Mapping[str, bool]] = {
    "u8": {},
    "s8": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}
_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class QuantisedFile:
    """An INT8 file. ``layers``: its convolutions and matrix products in integers; ``float_layers``: the others."""

    path: Path
    form: Form
    method: Method
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    size_bytes: int


def quantise(
    source: Path, path: Path, calibration: Calibration, *, form: Form = "u8", method: Method = "minmax"
) -> QuantisedFile:
    """Write an FP32 ONNX file in INT8, atomically; its metadata are kept, and say what the INT8 file is for.

    Args:
        source: the FP32 file; one float32 input (batch, 3, H, W) of fixed size, at least one convolution.
        path: the INT8 file.
        calibration: images of the training data; they fix the ranges of values, so no figure may be measured on them.
        form: the runtimes that it is for (see ``Form``).
        method: how ranges are chosen.

    Raises:
        ExportError: the file is missing, is no FP32 network of images, or is quantised already, or the images do not
            fit it.
        RuntimeMissing: ONNX Runtime is missing.
        RunError: the disk is full or the folder is not writable.
    """
    takes = check_fits(source, calibration)
    proto = read_onnx(source)
    if proto.ByteSize() > MAX_BYTES:
        raise ExportError(f"{source} has {proto.ByteSize():,} bytes: one ONNX file can have at most {MAX_BYTES:,}")
    metadata = stored_metadata(proto)
    with TemporaryDirectory(prefix="slimsight-int8-") as folder:
        prepared = _prepare(proto, source, Path(folder))
        name = runtime_inputs(proto.graph)[0].name
        reader = BatchReader(calibration, name, batch=takes.batch)
        quantised = _quantise_static(prepared, Path(folder) / "quantised.onnx", reader, form, method, source)
    _keep_logits_in_float_(quantised.graph)
    _drop_unused_domains_(quantised)
    write_metadata_(quantised, metadata | _metadata(calibration, form, method))
    with atomic_path(path) as part:
        part.write_bytes(quantised.SerializeToString(deterministic=True))
    layers = heavy_layers(quantised.graph)
    return QuantisedFile(
        path,
        form,
        method,
        tuple(layer.name for layer in layers if layer.quantised),
        tuple(layer.name for layer in layers if not layer.quantised),
        path.stat().st_size,
    )


def check_fits(path: Path, calibration: Calibration) -> ImageInput:
    """``check_quantisable``, and that the file takes images of the calibration's size.

    Raises:
        ExportError: as ``check_quantisable``, or the sizes differ.
    """
    takes, size = check_quantisable(path), calibration.pixels.shape[2:]
    assert takes.size is not None
    if size != takes.size:
        raise ExportError(
            f"the calibration images ({calibration.source}) are {size[0]} x {size[1]} pixels, {path.name} takes "
            f"{takes.size[0]} x {takes.size[1]}: give images of that size"
        )
    return takes


def check_quantisable(path: Path) -> ImageInput:
    """The images that an FP32 ONNX file takes, once nothing speaks against quantising it.

    Raises:
        ExportError: one sentence that says what does.
    """
    takes = read_input(path)
    if takes.size is None:
        raise ExportError(f"{path} takes images of any size: INT8 ranges are of one size, export it for one")
    proto = read_onnx(path, external=False)
    opset = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise ExportError(
            f"{path} has opset {opset}: INT8 with a scale for each channel needs {LEAST_OPSET} or newer, export it "
            "again"
        )
    if found := quantised_nodes(proto.graph):
        raise ExportError(
            f"{path} is quantised already (node '{found[0]}' and {len(found) - 1} more): give the FP32 file it was "
            "made from"
        )
    _refuse_branches(proto.graph, path)
    _refuse_other_weights(proto.graph, path)
    return takes


def _refuse_branches(graph: Any, path: Path) -> None:
    branching = next((node for node in graph.node if any(True for _ in subgraphs(node))), None)
    if branching is not None:
        raise ExportError(
            f"{path} has branches (node '{branching.name}', {branching.op_type}), which onnxruntime.quantization "
            "leaves in FP32: quantise the static slim model"
        )


def _refuse_other_weights(graph: Any, path: Path) -> None:
    """Refuse a graph without a convolution, and one that computes in FP16."""
    operators = [node.op_type for node in graph.node]
    if not any(name in ("Conv", "ConvTranspose") for name in operators):
        products = sum(name in _PRODUCTS for name in operators)
        raise ExportError(
            f"{path} has no convolution ({len(operators)} nodes, {products} matrix products): INT8 files are made of "
            "convolutional networks, give one"
        )
    tensors = (tensor for inner in nested_graphs(graph) for tensor in inner.initializer)
    half = next((tensor.name for tensor in tensors if tensor.data_type == HALF), None)
    if half is not None:
        raise ExportError(f"{path} holds FP16 weights ('{half}'): quantise the FP32 file that it was made from")


def _prepare(proto: Any, source: Path, folder: Path) -> Path:
    """The file that is quantised: BatchNorm folded into convolutions, constants stored, all shapes known.

    ONNX Runtime's basic optimisations do this; its operators are ONNX's own after it.
    """
    ort, onnx = import_onnxruntime(), importlib.import_module("onnx")
    whole, prepared = folder / "whole.onnx", folder / "prepared.onnx"
    onnx.save(proto, whole)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(prepared)
    try:
        # ConstantSharing would give weights names of its own.
        ort.InferenceSession(
            str(whole), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
    except runtime_errors() as error:
        raise ExportError(f"ONNX Runtime cannot open {source} ({first_error_line(error)}): export it again") from error
    optimised = onnx.load(prepared)
    taken: set[str] = set()
    for node in optimised.graph.node:  # a layer is known by its name
        node.name = node.name if node.name and node.name not in taken else f"node_of_{node.output[0]}"
        taken.add(node.name)
    inferred = onnx.shape_inference.infer_shapes(optimised)
    quant_utils = importlib.import_module("onnxruntime.quantization.quant_utils")
    quant_utils.add_pre_process_metadata(inferred)  # or it would advise to do this
    onnx.save(inferred, prepared)
    return prepared


def _quantise_static(prepared: Path, path: Path, reader: BatchReader, form: Form, method: Method, source: Path) -> Any:
    library = importlib.import_module("onnxruntime.quantization")
    kinds = library.QuantType
    try:
        with redirect_stdout(StringIO()):  # the library prints its progress
            library.quantize_static(
                prepared,
                path,
                reader,
                quant_format=library.QuantFormat.QDQ,
                per_channel=True,
                activation_type=kinds.QUInt8 if form == "u8" else kinds.QInt8,
                weight_type=kinds.QInt8,
                calibrate_method=getattr(library.CalibrationMethod, _METHODS[method]),
                # One batch after the other: histograms of all images at once would fill the memory.
                extra_options={"CalibStridedMinMax": 1, **_OPTIONS[form]},
            )
    except _library_errors() as error:
        raise ExportError(
            f"{source} cannot be quantised ({first_error_line(error)}): export it again, or leave it in FP32"
        ) from error
    return importlib.import_module("onnx").load(path)


def _library_errors() -> tuple[type[Exception], ...]:
    return (ValueError, RuntimeError, *runtime_errors())


def _keep_logits_in_float_(graph: Any) -> None:
    """Drop the quantisation of logits that a matrix product gives: 8 bits of them would tie classes.

    A convolution keeps it: runtimes compute one in integers only where its output is quantised too.
    """
    producers = {name: node for node in graph.node for name in node.output}
    readers = [name for node in graph.node for name in node.input]
    for value in graph.output:
        restored = producers.get(value.name)
        if restored is None or restored.op_type != "DequantizeLinear":
            continue
        rounded = producers.get(restored.input[0])
        layer = producers.get(rounded.input[0]) if rounded is not None else None
        if rounded is None or layer is None or layer.op_type not in _PRODUCTS:
            continue
        if readers.count(rounded.output[0]) > 1 or readers.count(rounded.input[0]) > 1:
            continue
        graph.node.remove(restored)
        graph.node.remove(rounded)
        layer.output[0] = value.name
    _drop_unread_(graph)


def _drop_unread_(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_unused_domains_(proto: Any) -> None:
    """Keep the operator sets that nodes use: ONNX Runtime lists all that it knows."""
    used = {node.domain for inner in nested_graphs(proto.graph) for node in inner.node} | {""}
    kept = [(item.domain, item.version) for item in proto.opset_import if item.domain in used]
    del proto.opset_import[:]
    for domain, version in kept:
        entry = proto.opset_import.add()
        entry.domain, entry.version = domain, version


def _metadata(calibration: Calibration, form: Form, method: Method) -> dict[str, str]:
    return {
        PRECISION: INT8,
        FORM: form,
        PURPOSE: PURPOSES[form],
        METHOD: method,
        CALIBRATION_IMAGES: str(len(calibration)),
        CALIBRATION_SOURCE: calibration.source,
        CALIBRATION_DIGEST: calibration.digest,
    }
