"""Layers of a quantised graph that stay in FP32, in a form that ONNX Runtime leaves alone.

Where a float layer reads dequantised values and its output is quantised, ONNX Runtime quantises its weight when it
opens the file, with one scale for all of it (optimiser WeightBiasQuantization), and runs it in integers. A ``Max`` of
one input between the two keeps its optimisers apart: it gives what it takes, and no optimiser removes it. In the file a
user's session needs no option for that; the optimised graph is read back to see it (``read_back``).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, Final

BARRIER: Final = "kept_in_fp32"
"""Ends the name of the node before a float layer."""

_LAYOUT: Final = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Expand", "Identity"}
)
"""Operators that ONNX Runtime moves a DequantizeLinear through."""


def keep_in_float_(graph: Any, layers: Collection[str]) -> None:
    """Put a ``Max`` of one input before each of these layers that reads dequantised values.

    Args:
        graph: a quantised graph in which they are float already.
        layers: names of convolutions and matrix products.
    """
    helper = importlib.import_module("onnx").helper
    producers = {name: node for node in graph.node for name in node.output}
    for position, node in reversed(list(enumerate(graph.node))):
        for factor in (0, 1) if node.name in layers else ():  # a matrix product may have its weight on either side
            if _is_dequantised(node.input[factor], producers):
                apart = f"{node.name}/{BARRIER}"
                graph.node.insert(position, helper.make_node("Max", [node.input[factor]], [apart], name=apart))
                node.input[factor] = apart


def _is_dequantised(name: str, producers: dict[str, Any]) -> bool:
    """Whether a value is a dequantised one, or one in another layout."""
    while (node := producers.get(name)) is not None and node.op_type in _LAYOUT:
        name = node.input[0]
    return node is not None and node.op_type == "DequantizeLinear"
