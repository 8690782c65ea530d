"""Quantised (Q/DQ) graphs: the two INT8 forms, what a file's metadata say of its form, which layers are in integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .graph import HEAVY_OPERATORS, nested_graphs

Form = Literal["u8", "s8"]
"""``u8``: unsigned asymmetric activations. ``s8``: symmetric signed activations, no integer bias. Weights are int8."""

Method = Literal["minmax", "entropy", "percentile"]
"""How a value's range is chosen: its extremes, the least KL divergence, or 99.999 % of its values."""

WeightScales = Literal["per_channel", "per_tensor"]
"""What one scale of weights is for: an output channel, or the whole weight of a layer."""

INT8 = "int8"
FORM, PURPOSE, METHOD = "int8_form", "int8_for", "int8_method"
FLOAT_LAYERS, WEIGHTS, QAT_EPOCHS = "int8_float_layers", "int8_weights", "int8_qat_epochs"
CALIBRATION_IMAGES, CALIBRATION_SOURCE, CALIBRATION_DIGEST = (
    "int8_calibration_images",
    "int8_calibration_source",
    "int8_calibration_sha256",
)
"""Keys of an INT8 file's metadata; ``FLOAT_LAYERS``: layers kept in FP32 for accuracy, where there are any;
``QAT_EPOCHS``: epochs of quantisation-aware training, where it was trained."""

PURPOSES: Mapping[Form, str] = {
    "u8": "ONNX Runtime on a processor; TensorRT refuses its zero points",
    "s8": "TensorRT and TensorRT for RTX; in ONNX Runtime on x86 it is slow, and wrong for some networks",
}

_QUANTISED_OPERATORS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)


def stated_form(metadata: Mapping[str, str]) -> Form | None:
    """The INT8 form that a file's metadata state; None: they state none."""
    return next((form for form in get_args(Form) if form == metadata.get(FORM)), None)


def quantised_nodes(graph: Any) -> list[str]:
    """Names of the nodes that quantise, dequantise or compute in integers, in branches too."""
    nodes = (node for inner in nested_graphs(graph) for node in inner.node)
    return [node.name or node.output[0] for node in nodes if node.op_type in _QUANTISED_OPERATORS]


@dataclass(frozen=True)
class HeavyLayer:
    """A convolution or matrix product with a stored weight. ``quantised``: all it multiplies is dequantised integers.

    ``weight``: the name of its stored weight.
    """

    name: str
    operator: str
    weight: str
    quantised: bool


def heavy_layers(graph: Any) -> list[HeavyLayer]:
    """The convolutions and matrix products of a graph that multiply by a stored weight, in its order."""
    return list(_heavy_layers(graph))


def _heavy_layers(graph: Any) -> Iterator[HeavyLayer]:
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type not in HEAVY_OPERATORS:
            continue
        factors = node.input[:2]
        weight = next((origin for name in factors if (origin := dequantised.get(name, name)) in stored), None)
        if weight is not None:
            quantised = all(name in dequantised for name in factors)
            yield HeavyLayer(node.name or node.output[0], node.op_type, weight, quantised)
