"""The layers and types of a parsed network and of a built engine, read back to check the requested precision."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimsight.compress.errors import ExportError

TENSORRT_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's names of types -> numpy's."""

_TYPE_PATTERNS = (
    (re.compile(r"bf16|bfloat16", re.I), "bfloat16"),
    (re.compile(r"half|fp16|float16", re.I), "float16"),
    (re.compile(r"float|fp32", re.I), "float32"),
    (re.compile(r"int64", re.I), "int64"),
    (re.compile(r"int32", re.I), "int32"),
    (re.compile(r"int8", re.I), "int8"),
    (re.compile(r"bool", re.I), "bool"),
)
"""How engines write types (``Half``, ``Row major linear FP16 format``); the first match counts."""

_NODE_NAME = re.compile(r"\[ONNX Layer: ([^|\]]+?)\s*(?:\||\])")
_WEIGHTS = re.compile(r"Constants: \[.*?\], Outputs:")
_POINTWISE_LAYERS = ("kgen", "shape_call", "CONSTANT", "SHUFFLE", "REFORMAT", "NoOp")
_HEAVY_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class EngineLayer:
    """A layer: its kind, the ONNX nodes that it computes, and the types of its inputs and outputs (not of weights).

    ``reads``: the types of its inputs alone.
    """

    kind: str
    nodes: tuple[str, ...]
    types: frozenset[str]
    reads: frozenset[str] = field(default=frozenset(), compare=False)


def dtype_name(dtype: Any) -> str:
    """numpy's name of a TensorRT DataType."""
    name = str(dtype.name)
    return TENSORRT_DTYPES.get(name, name.lower())


def network_layers(network: Any) -> list[EngineLayer]:
    """The layers of a parsed network, with the types of their outputs."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return [
        EngineLayer(
            layer.type.name,
            tuple(_NODE_NAME.findall(layer.metadata)),
            frozenset(dtype_name(layer.get_output(index).dtype) for index in range(layer.num_outputs)),
        )
        for layer in layers
    ]


def multiplications(layers: Sequence[EngineLayer]) -> list[EngineLayer]:
    """A network's convolutions and matrix products."""
    return [layer for layer in layers if layer.kind in _HEAVY_LAYERS]


def logged_layers(messages: Sequence[str]) -> list[EngineLayer]:
    """The layers of an engine from its build log; needs no GPU. Empty where the log does not list them."""
    report = next((text for text in reversed(messages) if text.startswith("Layers:\n")), "")
    return [
        EngineLayer(
            line.partition("LayerType: ")[2].partition(",")[0],
            tuple(_NODE_NAME.findall(line.partition("Metadata: ")[2])),
            _parse_types(re.findall(r"Datatype: (\w+)", _WEIGHTS.sub("", line))),
            _parse_types(re.findall(r"Datatype: (\w+)", line.partition("Constants: ")[0])),
        )
        for line in report.partition("I/O Tensors:")[0].splitlines()[1:]
        if line.startswith("Name: ")
    ]


def inspected_layers(trt: Any, engine: Any) -> list[EngineLayer]:
    """The layers of an open engine, from TensorRT's engine inspector."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text)["Layers"]
    return [
        EngineLayer(
            str(layer.get("LayerType", "")),
            tuple(_NODE_NAME.findall(str(layer.get("Metadata", "")))),
            _parse_types(re.findall(r'Datatype": "([^"]*)"', json.dumps([layer.get("Inputs"), layer.get("Outputs")]))),
            _parse_types(re.findall(r'Datatype": "([^"]*)"', json.dumps(layer.get("Inputs")))),
        )
        for layer in layers
        if isinstance(layer, dict)  # engines built without details list only names
    ]


def _parse_types(texts: Collection[str]) -> frozenset[str]:
    return frozenset(
        next((name for pattern, name in _TYPE_PATTERNS if pattern.search(text)), text.lower()) for text in texts
    )


def integer_nodes(layers: Sequence[EngineLayer], nodes: Collection[str]) -> tuple[str, ...]:
    """The convolutions and matrix products among ``nodes`` that an engine computes from integers.

    The layer that multiplies reads int8. Pointwise kernels (``kgen``) around it bear the node's name too: one that
    quantises the input reads floats, one behind it may read an int8 residual, so that neither says what the product is
    computed in. A node that only such kernels name does not count.
    """
    multiplying: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        if layer.kind not in _POINTWISE_LAYERS:
            for node in layer.nodes:
                multiplying.setdefault(node, []).append(layer)
    return tuple(
        node for node in nodes if node in multiplying and all("int8" in layer.reads for layer in multiplying[node])
    )


def count_types(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Layers by the floating-point types that they read and write, e.g. ``{"float16": 20, "float16+float32": 2}``."""
    kinds = ("+".join(sorted(kind for kind in layer.types if "float" in kind)) for layer in layers)
    return dict(sorted(Counter(kind for kind in kinds if kind).items()))


def check_layers(
    layers: Sequence[EngineLayer],
    *,
    fp16_nodes: Collection[str],
    fp32_nodes: Collection[str],
    what: str,
    pure: bool,
    strict: bool,
) -> None:
    """Prove that the nodes meant to compute in FP16 do, and the others do not.

    Args:
        layers: of a network or an engine.
        fp16_nodes, fp32_nodes: names of the graph's convolutions and matrix products.
        what: the network or engine, for messages.
        pure: no layer may read or write another floating-point type than float32.
        strict: all of the nodes must be listed; an engine may have folded some into others.

    Raises:
        ExportError: a node computes in another type than meant, or none of the nodes is listed.
    """
    listed: dict[str, frozenset[str]] = {}
    for layer in layers:
        for node in layer.nodes:
            listed[node] = listed.get(node, frozenset()) | layer.types
    wanted = {**dict.fromkeys(fp16_nodes, "float16"), **dict.fromkeys(fp32_nodes, "float32")}
    missing = [node for node in wanted if node not in listed]
    if wanted and (len(missing) == len(wanted) or (strict and missing)):
        raise ExportError(
            f"{what} does not say what node '{missing[0]}' computes in ({len(missing)} of {len(wanted)} such nodes): "
            "its precision cannot be checked; use another version of the runtime"
        )
    for node, kind in wanted.items():
        if node in listed and kind not in listed[node]:
            raise ExportError(
                f"{what} computes node '{node}' in {_join_types(listed[node])} where {kind} was asked for"
            )
    other_types = {kind for layer in layers for kind in layer.types if "float" in kind or kind == "int8"} - {"float32"}
    if pure and other_types:
        raise ExportError(f"{what} computes in {_join_types(other_types)} where float32 was asked for")


def _join_types(types: Collection[str]) -> str:
    return " and ".join(sorted(types)) or "a type that it does not name"
