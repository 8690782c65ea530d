"""A checked ONNX graph in FP32, FP16 or INT8: what a TensorRT engine is built from, or an FP16 ONNX file.

``to_precision`` serves both: ``tensorrt_build`` gives its bytes to the builder, ``export_fp16`` writes them as a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.files.atomic import atomic_path

from ..engines.result import BatchProfile, Precision
from ..onnx_files.graph import (
    HEAVY_OPERATORS,
    LOGITS_OUTPUT,
    ROUTES_OUTPUT,
    import_onnx,
    nested_graphs,
    read_onnx,
    runtime_inputs,
    static_sizes,
)
from ..onnx_files.metadata import PRECISION, stored_metadata, write_metadata_
from ..onnx_files.quantised import heavy_layers, quantised_nodes, stated_form
from ..onnx_files.value_types import FLOAT
from ..parity.compare import compare_logits
from .convert import to_half
from .overflow import overflowing_values, run_graph

DEFAULT_MAX_BATCH = 32
"""Largest batch size of an engine by default."""


class ImageGraph:
    """A valid ONNX file with one float32 input (batch, 3, H, W) of fixed size; ``batch``: None where it is free.

    Raises:
        ExportError: the file is missing, truncated or not valid ONNX, or has another input.
    """

    def __init__(self, path: Path) -> None:
        onnx = import_onnx()
        self.path, self.proto = path, read_onnx(path)
        try:
            onnx.checker.check_model(self.proto)
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"{path} is not a valid ONNX model ({first_error_line(error)}): export the model to onnx again"
            ) from error
        inputs = runtime_inputs(self.proto.graph)
        sizes = static_sizes(inputs[0]) if len(inputs) == 1 else ()
        if len(sizes) != 4 or inputs[0].type.tensor_type.elem_type != FLOAT:
            names = ", ".join(value.name for value in inputs) or "nothing"
            raise ExportError(f"{path} takes {names}: engines take one float32 input (batch, 3, H, W)")
        if None in sizes[1:]:
            raise ExportError(f"{path} takes images of any size: export it for one size of images")
        self.batch = sizes[0]

    def to_profile(self, requested: BatchProfile | None) -> BatchProfile:
        """The requested batch sizes; by default the graph's own, or 1 to ``DEFAULT_MAX_BATCH``.

        Raises:
            ExportError: the graph has a fixed batch size, and another one is requested.
        """
        if requested is None:
            return BatchProfile(1, 1, DEFAULT_MAX_BATCH) if self.batch is None else BatchProfile(*[self.batch] * 3)
        if self.batch is not None and set(requested.sizes) != {self.batch}:
            raise ExportError(
                f"{self.path.name} takes {self.batch} image(s) per call, batch sizes {requested.min}, {requested.opt}, "
                f"{requested.max} were asked for: ask for {self.batch}, or export the model with a free batch size"
            )
        return requested


@dataclass(frozen=True)
class PrecisionGraph:
    """A serialized ONNX graph in ``precision``, and how it was converted.

    ``fp16_nodes``, ``fp32_nodes`` and ``int8_nodes`` name its convolutions and matrix products by what they compute in;
    ``kept_fp32`` the values that overflow FP16. ``top1_agreement`` (0..1), ``p99_abs`` (units of logits) and
    ``route_agreement`` (0..1) compare it with the FP32 graph on samples; None where nothing was compared.
    """

    precision: Precision
    data: bytes
    fp16_nodes: tuple[str, ...]
    fp32_nodes: tuple[str, ...]
    kept_fp32: tuple[str, ...] = ()
    top1_agreement: float | None = None
    p99_abs: float | None = None
    route_agreement: float | None = None
    int8_nodes: tuple[str, ...] = ()


def to_precision(graph: ImageGraph, precision: Precision, samples: NDArray[Any] | None) -> PrecisionGraph:
    """The graph in ``precision``; in FP16, values that overflow on the samples (N, 3, H, W) stay in FP32.

    INT8 is quantised already, in the form s8, and is taken as it is.

    Raises:
        ExportError: an operator has no FP16 form, or the FP16 graph gives no finite logits; or the graph is quantised
            and FP32 or FP16 is asked for, or the other way round.
    """
    _check_quantised(graph, precision)
    if precision == "int8":
        nodes = tuple(layer.name for layer in heavy_layers(graph.proto.graph) if layer.quantised)
        return PrecisionGraph("int8", graph.proto.SerializeToString(), (), (), int8_nodes=nodes)
    if precision == "fp32":
        return PrecisionGraph("fp32", graph.proto.SerializeToString(), (), _heavy_nodes(graph.proto.graph))
    overflowing = {} if samples is None else overflowing_values(graph.proto, samples)
    half = to_half(graph.proto, overflowing)
    if PRECISION in (metadata := stored_metadata(half.proto)):
        write_metadata_(half.proto, metadata | {PRECISION: "fp16"})
    converted = PrecisionGraph("fp16", half.proto.SerializeToString(), half.fp16_nodes, half.fp32_nodes, half.kept_fp32)
    if samples is None:
        return converted
    names = [value.name for value in graph.proto.graph.output]
    reference = dict(zip(names, run_graph(graph.proto, samples), strict=True))
    candidate = dict(zip(names, run_graph(half.proto, samples), strict=True))
    logits = LOGITS_OUTPUT if LOGITS_OUTPUT in names else names[0]
    parity = compare_logits(
        reference[logits],
        candidate[logits],
        artifact=graph.path.name,
        runtime="onnxruntime-cpu",
        precision="fp16",
        batch=len(samples),
    )
    if not np.isfinite(parity.p99_abs):
        raise ExportError(f"{graph.path.name} gives no finite logits in FP16 for the samples: build it in fp32")
    routes = float((reference[ROUTES_OUTPUT] == candidate[ROUTES_OUTPUT]).mean()) if ROUTES_OUTPUT in names else None
    return replace(converted, top1_agreement=parity.top1_agreement, p99_abs=parity.p99_abs, route_agreement=routes)


def _check_quantised(graph: ImageGraph, precision: Precision) -> None:
    form, quantised = stated_form(stored_metadata(graph.proto)), bool(quantised_nodes(graph.proto.graph))
    if precision != "int8" and quantised:
        raise ExportError(f"{graph.path} is quantised: build it in int8, or give the FP32 file that it was made from")
    if precision == "int8" and form != "s8":
        found = f"in the form {form}" if form else "of an unknown form" if quantised else "in FP32"
        raise ExportError(
            f"{graph.path} is {found}: an INT8 engine is built from a file in the form s8, which has no zero points "
            "and no integer biases"
        )


def _heavy_nodes(graph: Any) -> tuple[str, ...]:
    """Names of a graph's convolutions and matrix products, in branches too."""
    nodes = (node for inner in nested_graphs(graph) for node in inner.node)
    return tuple(node.name or f"node_of_{node.output[0]}" for node in nodes if node.op_type in HEAVY_OPERATORS)


def export_fp16(onnx: Path, path: Path, samples: NDArray[Any]) -> PrecisionGraph:
    """Write an ONNX file in FP16; inputs, outputs and values that overflow FP16 stay float32, metadata are kept.

    Args:
        onnx: the FP32 file; one float32 input (batch, 3, H, W).
        path: the FP16 file.
        samples: (N, 3, H, W) images, uint8 or floating point in [0, 1], on which overflow is measured.

    Raises:
        ExportError: the file is missing or damaged, or has no FP16 form with finite logits.
        RunError: the disk is full or the folder is not writable.
    """
    converted = to_precision(ImageGraph(onnx), "fp16", samples)
    with atomic_path(path) as part:
        part.write_bytes(converted.data)
    return converted
