"""What a parsed network and a built engine really compute in: by their own account, not by what was asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from slimsight.compress.errors import ExportError

DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
"""TensorRT's names of types, and numpy's."""

_WRITTEN = (
    (re.compile(r"bf16|bfloat16", re.I), "bfloat16"),
    (re.compile(r"half|fp16|float16", re.I), "float16"),
    (re.compile(r"float|fp32", re.I), "float32"),
    (re.compile(r"int64", re.I), "int64"),
    (re.compile(r"int32", re.I), "int32"),
    (re.compile(r"int8", re.I), "int8"),
    (re.compile(r"bool", re.I), "bool"),
)
"""How engines write types (``Half``, ``Row major linear FP16 format``); the first that fits."""

_NODE = re.compile(r"\[ONNX Layer: ([^|\]]+?)\s*(?:\||\])")
_WEIGHTS = re.compile(r"Constants: \[.*?\], Outputs:")
_MULTIPLY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class EngineLayer:
    """A layer: its kind, the ONNX nodes that it computes, and the types of what it reads and writes (no weights)."""

    kind: str
    nodes: tuple[str, ...]
    types: frozenset[str]


def dtype_name(dtype: Any) -> str:
    """A TensorRT DataType in numpy's words."""
    name = str(dtype.name)
    return DTYPES.get(name, name.lower())


def network_layers(network: Any) -> list[EngineLayer]:
    """The layers of a parsed network, with the types of what they give."""
    layers = (network.get_layer(place) for place in range(network.num_layers))
    return [
        EngineLayer(
            layer.type.name,
            tuple(_NODE.findall(layer.metadata)),
            frozenset(dtype_name(layer.get_output(place).dtype) for place in range(layer.num_outputs)),
        )
        for layer in layers
    ]


def multiplications(layers: Sequence[EngineLayer]) -> list[EngineLayer]:
    """A network's convolutions and matrix products."""
    return [layer for layer in layers if layer.kind in _MULTIPLY]


def logged_layers(messages: Sequence[str]) -> list[EngineLayer]:
    """The layers of an engine as its builder reports them; needs no GPU. Empty where it did not report them."""
    report = next((text for text in reversed(messages) if text.startswith("Layers:\n")), "")
    return [
        EngineLayer(
            line.partition("LayerType: ")[2].partition(",")[0],
            tuple(_NODE.findall(line.partition("Metadata: ")[2])),
            _types(re.findall(r"Datatype: (\w+)", _WEIGHTS.sub("", line))),
        )
        for line in report.partition("I/O Tensors:")[0].splitlines()[1:]
        if line.startswith("Name: ")
    ]


def inspected_layers(trt: Any, engine: Any) -> list[EngineLayer]:
    """The layers of an open engine, by its own inspector."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text)["Layers"]
    return [
        EngineLayer(
            str(layer.get("LayerType", "")),
            tuple(_NODE.findall(str(layer.get("Metadata", "")))),
            _types(re.findall(r'Datatype": "([^"]*)"', json.dumps([layer.get("Inputs"), layer.get("Outputs")]))),
        )
        for layer in layers
        if isinstance(layer, dict)  # names alone are what engines without details give
    ]


def _types(written: Collection[str]) -> frozenset[str]:
    return frozenset(
        next((name for pattern, name in _WRITTEN if pattern.search(text)), text.lower()) for text in written
    )


def count_types(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Layers by the floating-point types that they touch, e.g. ``{"float16": 20, "float16+float32": 2}``."""
    kinds = ("+".join(sorted(kind for kind in layer.types if "float" in kind)) for layer in layers)
    return dict(sorted(Counter(kind for kind in kinds if kind).items()))


def check_layers(
    layers: Sequence[EngineLayer],
    *,
    in_half: Collection[str],
    in_single: Collection[str],
    what: str,
    pure: bool,
    strict: bool,
) -> None:
    """Prove that the nodes meant to compute in FP16 do, and the others do not.

    Args:
        layers: of a network or an engine.
        in_half, in_single: names of the graph's convolutions and matrix products.
        what: what has these layers, for messages.
        pure: no layer at all may touch another floating-point type than float32.
        strict: every one of the nodes must be found; an engine may have folded some into others.

    Raises:
        ExportError: a node computes in another type than meant, or none was found at all.
    """
    found: dict[str, frozenset[str]] = {}
    for layer in layers:
        for node in layer.nodes:
            found[node] = found.get(node, frozenset()) | layer.types
    wanted = {**dict.fromkeys(in_half, "float16"), **dict.fromkeys(in_single, "float32")}
    missing = [node for node in wanted if node not in found]
    if wanted and (len(missing) == len(wanted) or (strict and missing)):
        raise ExportError(
            f"{what} does not say what node '{missing[0]}' computes in ({len(missing)} of {len(wanted)} such nodes): "
            "its precision cannot be checked; use another version of the runtime"
        )
    for node, kind in wanted.items():
        if node in found and kind not in found[node]:
            raise ExportError(f"{what} computes node '{node}' in {_said(found[node])} where {kind} was asked for")
    strange = {kind for layer in layers for kind in layer.types if "float" in kind or kind == "int8"} - {"float32"}
    if pure and strange:
        raise ExportError(f"{what} computes in {_said(strange)} where float32 was asked for")


def _said(types: Collection[str]) -> str:
    return " and ".join(sorted(types)) or "no type it names"
