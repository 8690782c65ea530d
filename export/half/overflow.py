"""Values of an ONNX graph that overflow FP16, measured on images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..onnx_files.graph import import_onnx, subgraphs
from ..onnx_files.value_types import FLOAT, value_types
from ..runners import open_session, to_input
from .convert import FP16_MAX

FP16_HEADROOM = 2.0
"""Safety factor: other images may reach larger values than the samples."""


def overflowing_values(proto: Any, samples: NDArray[Any]) -> dict[str, float]:
    """Values that overflow FP16 on ``samples``, or come within ``FP16_HEADROOM`` of it, with their largest magnitude.

    Values inside of `If` branches cannot be read outside of them: where one overflows, all values of that `If`'s
    branches are returned, with the largest magnitude. Branches that no sample takes are not measured.

    Args:
        proto: a float32 model of one image input.
        samples: (N, 3, H, W), uint8 or floating point in [0, 1].
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    types = value_types(copy)
    inside: dict[str, list[str]] = {}
    scalars = _add_magnitudes_(onnx, copy.graph, types, inside)
    outputs = [onnx.helper.make_tensor_value_info(name, FLOAT, []) for name in scalars.values()]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs)
    largest = run_graph(copy, samples)
    overflowing: dict[str, float] = {}
    for name, rows in zip(scalars, largest, strict=True):
        magnitude = float(np.max(rows))
        if not magnitude * FP16_HEADROOM <= FP16_MAX:  # also where it is NaN
            overflowing.update(dict.fromkeys(inside.get(name, [name]), magnitude))
    return overflowing


def _add_magnitudes_(onnx: Any, graph: Any, types: dict[str, int], inside: dict[str, list[str]]) -> dict[str, str]:
    """Add nodes that compute the largest magnitude of each float value; returns value -> name of that scalar.

    An `If` gets one more output for all of its branches; ``inside`` maps its name to the values in them.
    """
    make, magnitudes = onnx.helper.make_node, {}
    nodes: list[Any] = []
    for node in graph.node:
        if any(True for _ in subgraphs(node)):
            scalar = f"{node.output[0]}/inside"
            inside[scalar] = []
            for inner in subgraphs(node):
                scalars = _add_magnitudes_(onnx, inner, types, inside)
                inside[scalar] += [name for value in scalars for name in inside.get(value, [value])]
                zero = onnx.helper.make_tensor("zero", FLOAT, [], [0.0])
                joined = f"{scalar}/{inner.name}"
                inner.node.append(make("Constant", [], [f"{joined}/zero"], value=zero))
                inner.node.append(make("Max", [f"{joined}/zero", *scalars.values()], [joined]))
                inner.output.append(onnx.helper.make_tensor_value_info(joined, FLOAT, []))
            node.output.append(scalar)
            magnitudes[scalar] = scalar
        nodes.append(node)
        for name in node.output:
            if types.get(name) == FLOAT and node.op_type != "Constant":
                nodes.append(make("Abs", [name], [f"{name}/abs"]))
                nodes.append(make("ReduceMax", [f"{name}/abs"], [f"{name}/largest"], keepdims=0))
                magnitudes[name] = f"{name}/largest"
    del graph.node[:]
    graph.node.extend(nodes)
    return magnitudes


def run_graph(proto: Any, samples: NDArray[Any], *, batch: int = 16) -> list[NDArray[Any]]:
    """All outputs of a model for images (N, 3, H, W), in ONNX Runtime on the CPU; of scalars one value per batch.

    ``batch`` images go in one call, unless the model fixes another number.
    """
    session = open_session(proto.SerializeToString(), torch.get_num_threads())
    (images,) = session.get_inputs()
    step = images.shape[0] if isinstance(images.shape[0], int) else batch
    rows = [
        session.run(None, {images.name: to_input(samples[start : start + step])})
        for start in range(0, len(samples), step)
    ]
    return [np.concatenate([np.atleast_1d(row[index]) for row in rows]) for index in range(len(rows[0]))]
