"""Which values of an ONNX graph are beyond what FP16 holds, measured on images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..onnx_files.graph import import_onnx
from ..onnx_files.value_types import FLOAT, branches, value_types
from ..runners import import_onnxruntime, to_input
from .convert import LARGEST

HEADROOM = 2.0
"""Other images than the samples may go further than they do."""


def wide_values(proto: Any, samples: NDArray[Any]) -> dict[str, float]:
    """Values whose largest magnitude on ``samples`` comes within ``HEADROOM`` of FP16's range, with that magnitude.

    A value inside of `If` branches has no name outside: where one of them is beyond, all values of that `If`'s
    branches are named, with the largest of them. Branches that no sample takes are not measured.

    Args:
        proto: a float32 model of one image input.
        samples: (N, 3, H, W), uint8 or floating point in [0, 1].
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    types = value_types(copy)
    inside: dict[str, list[str]] = {}
    watched = _watch_(onnx, copy.graph, types, inside)
    outputs = [onnx.helper.make_tensor_value_info(name, FLOAT, []) for name in watched.values()]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs)
    largest = run_graph(copy, samples)
    found: dict[str, float] = {}
    for name, rows in zip(watched, largest, strict=True):
        value = float(np.max(rows))
        if not value * HEADROOM <= LARGEST:  # also where it is NaN
            found.update(dict.fromkeys(inside.get(name, [name]), value))
    return found


def _watch_(onnx: Any, graph: Any, types: dict[str, int], inside: dict[str, list[str]]) -> dict[str, str]:
    """Add to a graph the largest magnitude of each float value that its nodes make; value -> that scalar's name.

    An `If` gets one more output for all of its branches, under a name that ``inside`` leads to their values.
    """
    make, watched = onnx.helper.make_node, {}
    nodes: list[Any] = []
    for node in graph.node:
        if any(True for _ in branches(node)):
            scalar = f"{node.output[0]}/inside"
            inside[scalar] = []
            for inner in branches(node):
                scalars = _watch_(onnx, inner, types, inside)
                inside[scalar] += [name for value in scalars for name in inside.get(value, [value])]
                zero = onnx.helper.make_tensor("zero", FLOAT, [], [0.0])
                joined = f"{scalar}/{inner.name}"
                inner.node.append(make("Constant", [], [f"{joined}/zero"], value=zero))
                inner.node.append(make("Max", [f"{joined}/zero", *scalars.values()], [joined]))
                inner.output.append(onnx.helper.make_tensor_value_info(joined, FLOAT, []))
            node.output.append(scalar)
            watched[scalar] = scalar
        nodes.append(node)
        for name in node.output:
            if types.get(name) == FLOAT and node.op_type != "Constant":
                nodes.append(make("Abs", [name], [f"{name}/abs"]))
                nodes.append(make("ReduceMax", [f"{name}/abs"], [f"{name}/largest"], keepdims=0))
                watched[name] = f"{name}/largest"
    del graph.node[:]
    graph.node.extend(nodes)
    return watched


def run_graph(proto: Any, samples: NDArray[Any], *, batch: int = 16) -> list[NDArray[Any]]:
    """All outputs of a graph for images (N, 3, H, W), in ONNX Runtime on the CPU; by batch where they are scalars.

    A graph of fixed batch size 1 is given one image at a time.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    step = images.shape[0] if isinstance(images.shape[0], int) else batch
    rows = [
        session.run(None, {images.name: to_input(samples[start : start + step])})
        for start in range(0, len(samples), step)
    ]
    return [np.concatenate([np.atleast_1d(row[place]) for row in rows]) for place in range(len(rows[0]))]
