"""The precision that ONNX Runtime really computes in, read from the graph that it optimised when it opened a file.

A file's Q/DQ nodes say what was meant. What runs is decided on opening: a layer may stay in FP32 where no integer
kernel fits, and a layer that the file keeps in FP32 may be quantised again, by one scale for its whole weight
(WeightBiasQuantization).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ..onnx_files.graph import nested_graphs
from ..onnx_files.quantised import HeavyLayer, heavy_layers
from ..runners import CPU_PROVIDER, open_session

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


def layers_in_onnxruntime(proto: Any, path: Path, provider: str = CPU_PROVIDER) -> LayersRun:
    """What each convolution and matrix product of a file runs in, in a session with the default optimisations.

    Args:
        proto: the file's content.
        path: the file.

    Raises:
        ExportError: ONNX Runtime cannot open it.
    """
    with TemporaryDirectory(prefix="slimsight-optimised-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(path, 1, provider, optimised_to=optimised)
        graph = importlib.import_module("onnx").load(optimised).graph
    return compare_layers(heavy_layers(proto.graph), graph)


def compare_layers(layers: Iterable[HeavyLayer], optimised: Any) -> LayersRun:
    """The layers of a file as they stand in its optimised graph.

    A node belongs to the layer whose name it bears, or else whose weight it reads.
    """
    known = list(layers)
    by_name = {layer.name: layer.name for layer in known}
    by_weight = {_ADDED_TO_WEIGHT.sub("", layer.weight): layer.name for layer in known}
    seen_in_integers = {
        name
        for node in _nodes(optimised)
        if node.op_type in _INTEGER_OPERATORS and (name := _layer_of(node, by_name, by_weight)) is not None
    }
    seen_in_float = {
        name
        for node in _nodes(optimised)
        if node.op_type in _FLOAT_OPERATORS and (name := _layer_of(node, by_name, by_weight)) is not None
    }
    integer = [layer for layer in known if layer.name in seen_in_integers - seen_in_float]
    floating = [layer for layer in known if layer not in integer]
    return LayersRun(
        tuple(layer.name for layer in integer),
        tuple(layer.name for layer in floating),
        tuple(layer.name for layer in integer if not layer.quantised),
        tuple(layer.name for layer in floating if layer.quantised),
    )


def _nodes(graph: Any) -> Iterator[Any]:
    for inner in nested_graphs(graph):
        yield from inner.node


def _layer_of(node: Any, by_name: Mapping[str, str], by_weight: Mapping[str, str]) -> str | None:
    if (named := by_name.get(_ADDED.sub("", node.name))) is not None:
        return named
    weights = (by_weight.get(_ADDED_TO_WEIGHT.sub("", name)) for name in node.input)
    return next((name for name in weights if name is not None), None)
