"""Layers of a file by the precision that a runtime really computes them in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .graph import nested_graphs
from .quantised import HeavyLayer

_INTEGER_OPERATORS: Final = frozenset(
    {
        "QLinearConv",
        "QLinearConvTranspose",
        "ConvInteger",
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
_FLOAT_OPERATORS: Final = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
_ADDED = re.compile(r"^fused |(_token_\d+|_nchwc)+$")  # what optimisers add to the name of a node that they replace
_ADDED_TO_WEIGHT = re.compile(r"(_quantized|_token_\d+)+$")


@dataclass(frozen=True)
class LayersRun:
    """Layers of a file by what they run in, named as in the file.

    ``floating``: not seen in integers. ``requantised``: of ``integer``, those that the file keeps in FP32;
    ``fell_back``: of ``floating``, those that the file quantises.
    """

    integer: tuple[str, ...]
    floating: tuple[str, ...]
    requantised: tuple[str, ...]
    fell_back: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the layers that run in integers (0..1)."""
        return len(self.integer) / max(1, len(self.integer) + len(self.floating))


def layers_seen(layers: Iterable[HeavyLayer], in_integers: Collection[str], in_float: Collection[str]) -> LayersRun:
    """The layers of a file, of which a runtime runs those named ``in_integers`` and ``in_float``.

    A layer counts as integer where it is seen in integers alone.
    """
    known = list(layers)
    integer = [layer for layer in known if layer.name in in_integers and layer.name not in in_float]
    floating = [layer for layer in known if layer not in integer]
    return LayersRun(
        tuple(layer.name for layer in integer),
        tuple(layer.name for layer in floating),
        tuple(layer.name for layer in integer if not layer.quantised),
        tuple(layer.name for layer in floating if layer.quantised),
    )


def compare_layers(layers: Iterable[HeavyLayer], optimised: Any) -> LayersRun:
    """The layers of a file as they stand in the graph that ONNX Runtime optimised.

    A node belongs to the layer whose name it bears, or else whose weight it reads.
    """
    known = list(layers)
    by_name = {layer.name: layer.name for layer in known}
    by_weight = {_ADDED_TO_WEIGHT.sub("", layer.weight): layer.name for layer in known}

    def seen(operators: Collection[str]) -> set[str]:
        names = (_layer_of(node, by_name, by_weight) for node in _nodes(optimised) if node.op_type in operators)
        return {name for name in names if name is not None}

    return layers_seen(known, seen(_INTEGER_OPERATORS), seen(_FLOAT_OPERATORS))


def _nodes(graph: Any) -> Iterator[Any]:
    for inner in nested_graphs(graph):
        yield from inner.node


def _layer_of(node: Any, by_name: Mapping[str, str], by_weight: Mapping[str, str]) -> str | None:
    if (named := by_name.get(_ADDED.sub("", node.name))) is not None:
        return named
    weights = (by_weight.get(_ADDED_TO_WEIGHT.sub("", name)) for name in node.input)
    return next((name for name in weights if name is not None), None)
