"""What an FP32 ONNX file must be to be quantised, and the form of it that is: BatchNorm folded, shapes known."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError, first_error_line

from ..onnx_files.graph import nested_graphs, read_onnx, runtime_errors, subgraphs
from ..onnx_files.quantised import quantised_nodes
from ..onnx_files.value_types import HALF
from ..runners import import_onnxruntime
from ..runners.inputs import ImageInput, read_input
from .calibration import Calibration

LEAST_OPSET = 13
"""The first with a scale for each channel in DequantizeLinear."""

PRODUCTS = ("Gemm", "MatMul")


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
        products = sum(name in PRODUCTS for name in operators)
        raise ExportError(
            f"{path} has no convolution ({len(operators)} nodes, {products} matrix products): INT8 files are made of "
            "convolutional networks, give one"
        )
    tensors = (tensor for inner in nested_graphs(graph) for tensor in inner.initializer)
    half = next((tensor.name for tensor in tensors if tensor.data_type == HALF), None)
    if half is not None:
        raise ExportError(f"{path} holds FP16 weights ('{half}'): quantise the FP32 file that it was made from")


def prepare(proto: Any, source: Path, folder: Path) -> Path:
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
