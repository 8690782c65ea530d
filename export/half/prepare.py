"""The ONNX graph that an engine is built from: checked, and in FP16 where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import atomic_path

from ..engines.result import BatchProfile, Precision
from ..onnx_files.graph import import_onnx, read_onnx
from ..onnx_files.value_types import FLOAT, branches
from ..parity.compare import compare_logits
from ..pt2.export import first_line
from ..routed.writer import LOGITS, ROUTES
from .convert import HEAVY, to_half
from .overflow import run_graph, wide_values

MOST = 32
"""Images per call that an engine takes at most where nothing else is said."""


class EngineGraph:
    """An ONNX file of one float image input.

    Raises:
        ExportError: the file is missing, truncated or no valid ONNX, or takes something else.
    """

    def __init__(self, path: Path) -> None:
        onnx = import_onnx()
        self.path, self.proto = path, read_onnx(path)
        try:
            onnx.checker.check_model(self.proto)
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"{path} is no whole ONNX model ({first_line(error)}): export the model to onnx again"
            ) from error
        stored = {tensor.name for tensor in self.proto.graph.initializer}
        inputs = [value for value in self.proto.graph.input if value.name not in stored]
        kinds = [value.type.tensor_type for value in inputs]
        if len(kinds) != 1 or kinds[0].elem_type != FLOAT or len(kinds[0].shape.dim) != 4:
            found = ", ".join(value.name for value in inputs) or "nothing"
            raise ExportError(f"{path} takes {found}: engines take one float32 input (batch, 3, H, W)")
        sizes = [dim.dim_value for dim in kinds[0].shape.dim]
        if 0 in sizes[1:]:
            raise ExportError(f"{path} takes images of any size: export it for one size of images")
        self.batch: int | None = sizes[0] or None

    def profile(self, asked: BatchProfile | None) -> BatchProfile:
        """The batch sizes that are asked for, or those that suit the graph.

        Raises:
            ExportError: the graph has a fixed batch size and another one is asked for.
        """
        if asked is None:
            return BatchProfile(1, 1, MOST) if self.batch is None else BatchProfile(*[self.batch] * 3)
        if self.batch is not None and {asked.min, asked.opt, asked.max} != {self.batch}:
            raise ExportError(
                f"{self.path.name} takes {self.batch} image(s) per call, batch sizes {asked.min}, {asked.opt}, "
                f"{asked.max} were asked for: ask for {self.batch}, or export the model with a free batch size"
            )
        return asked


@dataclass(frozen=True)
class Prepared:
    """A serialized graph in the precision asked for.

    ``in_half`` and ``in_single`` name its convolutions and matrix products by what they compute in; ``wide`` the
    values that FP16 cannot hold. The figures compare it with the FP32 graph; None where nothing was compared.
    """

    precision: Precision
    data: bytes
    in_half: tuple[str, ...]
    in_single: tuple[str, ...]
    wide: tuple[str, ...] = ()
    top1_agreement: float | None = None
    p99_abs: float | None = None
    route_agreement: float | None = None


def prepare(graph: EngineGraph, precision: Precision, samples: NDArray[Any] | None) -> Prepared:
    """The graph in ``precision``; images (N, 3, H, W) show what FP16 cannot hold, and what it costs.

    Raises:
        ExportError: an operator has no FP16 form, or the FP16 graph gives no finite logits.
    """
    if precision == "fp32":
        return Prepared("fp32", graph.proto.SerializeToString(), (), tuple(_heavy(graph.proto.graph)))
    beyond = {} if samples is None else wide_values(graph.proto, samples)
    half = to_half(graph.proto, beyond)
    made = Prepared("fp16", half.proto.SerializeToString(), half.in_half, half.in_single, half.wide)
    if samples is None:
        return made
    names = [value.name for value in graph.proto.graph.output]
    reference = dict(zip(names, run_graph(graph.proto, samples), strict=True))
    candidate = dict(zip(names, run_graph(half.proto, samples), strict=True))
    logits = LOGITS if LOGITS in names else names[0]
    found = compare_logits(
        reference[logits],
        candidate[logits],
        artifact=graph.path.name,
        runtime="onnxruntime-cpu",
        precision="fp16",
        batch=len(samples),
    )
    if not np.isfinite(found.p99_abs):
        raise ExportError(f"{graph.path.name} gives no finite logits in FP16 for the samples: build it in fp32")
    routes = float((reference[ROUTES] == candidate[ROUTES]).mean()) if ROUTES in names else None
    return replace(made, top1_agreement=found.top1_agreement, p99_abs=found.p99_abs, route_agreement=routes)


def _heavy(graph: Any) -> list[str]:
    """Names of a graph's convolutions and matrix products, in branches too."""
    names = []
    for node in graph.node:
        for inner in branches(node):
            names += _heavy(inner)
        if node.op_type in HEAVY:
            names.append(node.name or f"node_of_{node.output[0]}")
    return names


def export_half(onnx: Path, path: Path, samples: NDArray[Any]) -> Prepared:
    """Cast an ONNX file to FP16; inputs, outputs and what FP16 cannot hold stay float32, metadata stays.

    Args:
        onnx: the file; one float32 input (batch, 3, H, W).
        path: where to.
        samples: (N, 3, H, W) images, uint8 or floating point in [0, 1], that show which values FP16 cannot hold.

    Raises:
        ExportError: the file is missing or damaged, or has no FP16 form with finite logits.
        RunError: the disk is full or the place is not writable.
    """
    made = prepare(EngineGraph(onnx), "fp16", samples)
    with atomic_path(path) as part:
        part.write_bytes(made.data)
    return made
