"""Bias correction: the mean shift of a layer's output by its rounded weights, taken out of its bias.

Rounding weights shifts the mean of each output channel, most where one scale serves weights of unlike size. The shift
is E[conv(x, W_int8 - W)] = mean of conv(E[x], W_int8 - W) over positions, and the bias is where it costs nothing
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, here with
measured means).
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..onnx_files.graph import read_onnx
from ..onnx_files.quantised import heavy_layers
from ..runners import CPU_PROVIDER, import_onnxruntime
from .calibration import BatchReader

Array = NDArray[np.float32]

MEAN_IMAGES: Final = 64
"""Calibration images whose mean a layer's input is, about."""

CHANNEL_AXIS: Final = 1
"""Of the output of a convolution (N, C, H, W) and of a matrix product (N, C)."""


def mean_inputs(prepared: Path, reader: BatchReader) -> dict[str, Array]:
    """The mean over images (1, ...) of what each layer of an FP32 file with a bias multiplies, by the value's name."""
    onnx, ort = importlib.import_module("onnx"), import_onnxruntime()
    proto = read_onnx(prepared)
    names = list(dict.fromkeys(node.input[0] for node in _with_bias(proto.graph)))
    if not names:
        return {}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(proto.SerializeToString(), providers=[CPU_PROVIDER])
    sums: dict[str, Any] = {}
    seen = 0
    while seen < MEAN_IMAGES and (batch := reader.get_next()) is not None:
        for name, value in zip(names, session.run(names, batch), strict=True):
            sums[name] = sums.get(name, 0) + value.sum(0, keepdims=True, dtype=np.float64)
        seen += len(next(iter(batch.values())))
    return {name: (total / seen).astype(np.float32) for name, total in sums.items()}


def correct_biases_(quantised: Any, exact: Any, means: Mapping[str, Array]) -> None:
    """Take the shift by rounded weights out of the biases of a quantised graph.

    Args:
        quantised: the graph; its layers have the names that they have in ``exact``.
        exact: the FP32 graph.
        means: of its layers' inputs, by ``mean_inputs``.
    """
    producers = {name: node for node in quantised.node for name in node.output}
    stored = {tensor.name: tensor for tensor in quantised.initializer}
    weights = {tensor.name: tensor for tensor in exact.initializer}
    originals = {node.name: node for node in _with_bias(exact)}
    numpy_helper = importlib.import_module("onnx").numpy_helper
    errors: dict[str, Array] = {}
    for node in quantised.node:
        source = producers.get(node.input[1]) if node.name in originals else None
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in stored:
            weight = numpy_helper.to_array(weights[originals[node.name].input[1]])
            errors[node.name] = _dequantised(source, stored) - weight
    shifts = _mean_outputs([originals[name] for name in errors], errors, means)
    reads = Counter(name for node in quantised.node for name in node.input)
    for node in [node for node in quantised.node if node.name in shifts]:
        _shift_bias_(quantised, node, producers.get(node.input[2]), stored, reads, shifts[node.name])


def _with_bias(graph: Any) -> Iterator[Any]:
    """Layers of a stored weight that add a stored bias, one value for each output channel."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    layers = {layer.name for layer in heavy_layers(graph)}
    for node in graph.node:
        known = node.name in layers and len(node.input) == 3 and node.input[1] in stored and node.input[2] in stored
        if known and len(stored[node.input[2]].dims) == 1 and not _is_scaled(node):
            yield node


def _is_scaled(node: Any) -> bool:
    """Whether a Gemm multiplies its bias (beta)."""
    return any(attribute.name == "beta" and attribute.f != 1 for attribute in node.attribute)


def _dequantised(node: Any, stored: Mapping[str, Any]) -> Array:
    """The float value of a stored DequantizeLinear; int8 weights are symmetric, without zero points."""
    numpy_helper = importlib.import_module("onnx").numpy_helper
    values, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [-1 if position == axis % values.ndim else 1 for position in range(values.ndim)]
    found: Array = values.astype(np.float32) * (scale.reshape(shape) if scale.ndim else scale)
    return found


def _mean_outputs(nodes: list[Any], weights: Mapping[str, Array], means: Mapping[str, Array]) -> dict[str, Array]:
    """The mean over positions of each layer's output (C,) for its mean input, with other weights and no bias."""
    if not nodes:
        return {}
    onnx, ort = importlib.import_module("onnx"), import_onnxruntime()
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph = onnx.GraphProto(name="shifts")
    for number, node in enumerate(nodes):
        copy = graph.node.add()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend([node.input[0], f"weight{number}"])
        copy.output.append(f"shift{number}")
        graph.initializer.append(numpy_helper.from_array(weights[node.name], f"weight{number}"))
        graph.output.append(onnx.ValueInfoProto(name=f"shift{number}"))
    read = {node.input[0] for node in nodes}
    kind = onnx.TensorProto.FLOAT
    graph.input.extend(helper.make_tensor_value_info(name, kind, means[name].shape) for name in sorted(read))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(proto.SerializeToString(), providers=[CPU_PROVIDER])
    outputs = session.run(None, {name: means[name] for name in read})
    return {
        node.name: value.mean(axis=tuple(axis for axis in range(value.ndim) if axis != CHANNEL_AXIS))
        for node, value in zip(nodes, outputs, strict=True)
    }


def _shift_bias_(
    graph: Any, node: Any, restored: Any, stored: Mapping[str, Any], reads: Mapping[str, int], shift: Array
) -> None:
    """Subtract ``shift`` from a layer's bias: a stored float, or a stored int32 that ``restored`` dequantises.

    What other layers read stays as it is: the layer gets a bias of its own.
    """
    numpy_helper = importlib.import_module("onnx").numpy_helper
    own = f"{node.name}/corrected_bias"
    if restored is None:
        exact = numpy_helper.to_array(stored[node.input[2]]) - shift
        graph.initializer.append(numpy_helper.from_array(exact.astype(np.float32), own))
        node.input[2] = own
        return
    values, scale = (numpy_helper.to_array(stored[name]) for name in restored.input[:2])
    bound = np.iinfo(np.int32)
    exact = np.clip(np.round(values - shift.astype(np.float64) / scale), bound.min, bound.max)
    graph.initializer.append(numpy_helper.from_array(exact.astype(np.int32), own))
    if reads[restored.output[0]] > 1:
        place = list(graph.node).index(restored)
        copy = type(restored).FromString(restored.SerializeToString())
        copy.name, copy.output[0] = f"{own}/dequantise", f"{own}_dequantised"
        graph.node.insert(place, copy)
        node.input[2], restored = copy.output[0], graph.node[place]
    restored.input[0] = own
