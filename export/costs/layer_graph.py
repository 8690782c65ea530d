"""An ONNX graph of single layers to be timed: each with its bias and ReLU, in FP32 or in integers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.gates.latency import TimedLayer

KernelPrecision = Literal["fp32", "int8"]
"""What layers are computed in: floats, or 8-bit integers as an INT8 file for ONNX Runtime has them."""

_OPSET = 18

_SCALE, _WEIGHT_SCALE = np.float32(0.05), np.float32(1e-3)
"""Of activations and of weights; a runtime computes in integers only where a bias has the product of both."""


def write_layers(
    layers: Sequence[TimedLayer], path: Path, batch: int, *, precision: KernelPrecision = "fp32"
) -> dict[str, NDArray[Any]]:
    """Write a graph with a node ``layer<number>`` for each layer; returns its inputs by name.

    In int8 a layer stands between DequantizeLinear and QuantizeLinear, whose zero point is its ReLU; its weight is
    int8, its bias int32, with a scale for each output channel. Layers of one shape of input read the same one.
    """
    onnx = importlib.import_module("onnx")
    graph = _Graph(onnx, batch, precision)
    for number, layer in enumerate(layers):
        graph.add(number, layer)
    made = onnx.helper.make_graph(graph.nodes, "layers", graph.inputs, graph.outputs, graph.weights)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.save(model, str(path))
    return graph.feeds


class _Graph:
    """The parts of one graph."""

    def __init__(self, onnx: Any, batch: int, precision: KernelPrecision) -> None:
        self._helper, self._to_tensor, self._kinds = onnx.helper, onnx.numpy_helper.from_array, onnx.TensorProto
        self._batch, self._quantised = batch, precision == "int8"
        self._draw = np.random.default_rng(0)
        self.feeds: dict[str, NDArray[Any]] = {}
        self.inputs: list[Any] = []
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: list[Any] = []
        if self._quantised:
            self._store("scale", _SCALE)
            self._store("zero", np.uint8(0))

    def add(self, number: int, layer: TimedLayer) -> None:
        """Add one layer."""
        channels = layer.inputs * layer.groups
        filters = (channels, layer.outputs // layer.groups) if layer.transposed else (layer.outputs, layer.inputs)
        weight = (*filters, *layer.kernel)
        maps = self._maps((channels, *layer.size))
        if not self._quantised:
            stored = [self._constant(f"weight_{number}", weight), self._constant(f"bias_{number}", (layer.outputs,))]
            self._float_node(number, layer, [maps, *stored])
        else:
            axis = 1 if layer.transposed else 0
            scales = [np.full(count, _WEIGHT_SCALE) for count in (weight[axis], layer.outputs)]
            stored = [
                self._integer(f"weight_{number}", weight, scales[0], np.int8, axis),
                self._integer(f"bias_{number}", (layer.outputs,), _SCALE * scales[1], np.int32, 0),
            ]
            self._integer_node(number, layer, [maps, *stored])

    def _float_node(self, number: int, layer: TimedLayer, inputs: list[str]) -> None:
        output = f"out{number}"
        if layer.kernel:
            self.nodes.append(self._layer(number, layer, inputs, f"sum{number}"))
            relu = self._helper.make_node("Relu", [f"sum{number}"], [output], name=f"layer{number}_relu")
            self.nodes.append(relu)
        else:
            self.nodes.append(self._layer(number, layer, inputs, output))
        self.outputs.append(self._helper.make_tensor_value_info(output, self._kinds.FLOAT, None))

    def _integer_node(self, number: int, layer: TimedLayer, inputs: list[str]) -> None:
        exact, rounded = f"sum{number}", f"rounded{number}"
        self.nodes.append(self._layer(number, layer, inputs, exact))
        self.nodes.append(self._helper.make_node("QuantizeLinear", [exact, "scale", "zero"], [rounded]))
        self.outputs.append(self._helper.make_tensor_value_info(rounded, self._kinds.UINT8, None))

    def _layer(self, number: int, layer: TimedLayer, inputs: list[str], output: str) -> Any:
        if not layer.kernel:
            return self._helper.make_node("Gemm", inputs, [output], name=f"layer{number}", transB=1)
        return self._helper.make_node(
            "ConvTranspose" if layer.transposed else "Conv",
            inputs,
            [output],
            name=f"layer{number}",
            kernel_shape=list(layer.kernel),
            strides=list(layer.stride),
            pads=list(layer.padding),
            dilations=list(layer.dilation),
            group=layer.groups,
        )

    def _maps(self, shape: tuple[int, ...]) -> str:
        """The input of a shape, in floats."""
        name = "maps" + "x".join(map(str, shape))
        if name not in self.feeds:
            kind = self._kinds.UINT8 if self._quantised else self._kinds.FLOAT
            self.inputs.append(self._helper.make_tensor_value_info(name, kind, ["batch", *shape]))
            if self._quantised:
                self.feeds[name] = self._draw.integers(0, 256, (self._batch, *shape)).astype(np.uint8)
                self._restore(name, "scale", "zero")
            else:
                self.feeds[name] = self._draw.standard_normal((self._batch, *shape), dtype=np.float32)
        return f"{name}_restored" if self._quantised else name

    def _constant(self, name: str, shape: tuple[int, ...]) -> str:
        return self._store(name, self._draw.standard_normal(shape, dtype=np.float32))

    def _integer(self, name: str, shape: tuple[int, ...], scales: NDArray[Any], kind: type[Any], axis: int) -> str:
        """A stored integer with a scale for each index of ``axis``, in floats."""
        self._store(name, self._draw.integers(-100, 101, shape).astype(kind))
        self._store(f"{name}_scale", scales)
        return self._restore(name, f"{name}_scale", self._store(f"{name}_zero", np.zeros(len(scales), kind)), axis=axis)

    def _restore(self, name: str, scale: str, zero: str, **options: int) -> str:
        output = f"{name}_restored"
        self.nodes.append(self._helper.make_node("DequantizeLinear", [name, scale, zero], [output], **options))
        return output

    def _store(self, name: str, value: Any) -> str:
        self.weights.append(self._to_tensor(np.asarray(value), name))
        return name
