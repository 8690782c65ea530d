"""A quantised ONNX graph, read as steps that PyTorch can run and train: roundings, layers, and other operators."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

from ..onnx_files.quantised import heavy_layers
from .torch_operators import OPERATORS

Array = NDArray[Any]

_SUFFIX: Final = "_scale"
"""onnxruntime.quantization calls the scale of a value by the value's name and this."""

_LEVELS: Final = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


class _OneValue:
    """A step that reads one value and gives one."""

    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it reads."""
        return (self.input,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that it gives."""
        return (self.output,)


@dataclass(frozen=True)
class RoundStep(_OneValue):
    """A QuantizeLinear of activations, with its DequantizeLinear: levels ``low`` to ``high`` of the named ``scale``."""

    input: str
    output: str
    scale: str
    zero_point: int
    low: int
    high: int
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerStep(_OneValue):
    """A convolution or matrix product with an int8 weight.

    ``weight``, ``bias``: names in the FP32 graph; ``axis``: of the weight's scales, None: one scale; ``bias_scale``:
    the scale of what it multiplies, where the bias is int32; None: the bias is a float, or there is none.
    """

    operator: str
    attributes: Mapping[str, Any]
    input: str
    output: str
    weight: str
    axis: int | None
    bias: str | None
    bias_scale: str | None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class OperatorStep:
    """Any other node. ``unread``: values that no later step reads."""

    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unread: tuple[str, ...] = ()


Step = RoundStep | LayerStep | OperatorStep


@dataclass(frozen=True)
class TorchGraph:
    """A graph to be run in PyTorch.

    ``scales``: calibrated scales of activations, by name; ``fixed``: those that onnxruntime.quantization sets itself;
    ``weights``: weights and biases of layers in float, by their names in the FP32 graph; ``constants``: all other
    stored values that steps read.
    """

    input: str
    output: str
    steps: tuple[Step, ...]
    scales: Mapping[str, float]
    fixed: frozenset[str]
    weights: Mapping[str, Array]
    constants: Mapping[str, Array]

    @staticmethod
    def value_of(scale: str) -> str:
        """The name of the value that a scale is of."""
        return scale.removesuffix(_SUFFIX)


def read_graph(quantised: Any, exact: Any, source: str) -> TorchGraph:
    """The steps of a quantised graph.

    Args:
        quantised: GraphProto of an INT8 file; or ``exact`` itself, which then has no roundings.
        exact: GraphProto of the FP32 file that it was made from, whose layers have the same names.
        source: what messages call the file.

    Raises:
        ExportError: it has operators that are not trained here; the message names them.
    """
    check_operators(quantised, source)
    return _Reader(quantised, exact).read()


def check_operators(graph: Any, source: str) -> None:
    """Raises ExportError where a graph has operators that are not trained here; ``source``: what messages call it."""
    unknown = sorted({node.op_type for node in graph.node} - {*OPERATORS, "QuantizeLinear", "DequantizeLinear"})
    if unknown:
        raise ExportError(
            f"{source} has operators that quantisation-aware training does not know ({', '.join(unknown)}): leave "
            "quantisation-aware training out, and keep layers in FP32 by accuracy control instead"
        )


class _Reader:
    """One reading of a graph."""

    def __init__(self, quantised: Any, exact: Any) -> None:
        onnx = importlib.import_module("onnx")
        self._to_array: Callable[[Any], Array] = onnx.numpy_helper.to_array
        self._attribute: Callable[[Any], Any] = onnx.helper.get_attribute_value
        self._graph, self._exact = quantised, exact
        self._stored = {tensor.name: tensor for tensor in quantised.initializer}
        self._exact_stored = {tensor.name: tensor for tensor in exact.initializer}
        self._exact_nodes = {node.name: node for node in exact.node}
        self._producers = {name: node for node in quantised.node for name in node.output}
        self._layers = {layer.name for layer in heavy_layers(quantised) if layer.quantised}
        self._tied = self._ties()
        self._scales: dict[str, float] = {}
        self._weights: dict[str, Array] = {}
        self._constants: dict[str, Array] = {}

    def read(self) -> TorchGraph:
        graph = self._graph
        steps = [step for node in graph.node if (step := self._step(node)) is not None]
        output = self._resolve(graph.output[0].name)
        read = {name for step in steps for name in step.inputs}
        constants = {name: self._to_array(self._stored[name]) for name in sorted(read & set(self._stored))}
        constants |= {name: value for name, value in self._constants.items() if name in read}
        fixed = {f"{node.output[0]}{_SUFFIX}" for node in self._exact.node if node.op_type == "Softmax"}
        return TorchGraph(
            graph.input[0].name,
            output,
            _with_unread(steps, output),
            self._scales,
            frozenset(fixed & set(self._scales)),
            self._weights,
            constants,
        )

    def _step(self, node: Any) -> Step | None:
        if node.op_type == "QuantizeLinear":
            return self._rounding(node)
        if node.op_type == "DequantizeLinear":
            if node.input[0] in self._stored:
                self._constants[node.output[0]] = self._dequantised(node)
            return None
        attributes = {item.name: self._attribute(item) for item in node.attribute}
        if node.name in self._layers and (layer := self._layer(node, attributes)) is not None:
            return layer
        inputs = tuple(self._resolve(name) for name in node.input)
        return OperatorStep(node.op_type, attributes, inputs, tuple(node.output))

    def _rounding(self, node: Any) -> RoundStep:
        value, scale, zero = (self._resolve(node.input[0]), node.input[1], self._to_array(self._stored[node.input[2]]))
        key = self._tied.get(scale, scale)
        self._scales[key] = float(self._to_array(self._stored[key]))
        low, high = _LEVELS[zero.dtype]
        return RoundStep(value, node.output[0], key, int(zero), low, high)

    def _layer(self, node: Any, attributes: Mapping[str, Any]) -> LayerStep | None:
        """A layer whose weight is its second input; None: it is run as it is stored."""
        restored, original = self._producers.get(node.input[1]), self._exact_nodes.get(node.name)
        if restored is None or original is None or original.input[1] not in self._exact_stored:
            return None
        weight = original.input[1]
        self._weights[weight] = self._to_array(self._exact_stored[weight])
        scale = self._to_array(self._stored[restored.input[1]])
        axis = next((item.i for item in restored.attribute if item.name == "axis"), 1) if scale.ndim else None
        bias = original.input[2] if len(node.input) > 2 and node.input[2] else None
        bias_scale = None
        if bias is not None:
            restored = self._producers.get(node.input[2])
            known = self._dequantised(restored) if restored is not None else self._to_array(self._stored[node.input[2]])
            self._weights.setdefault(bias, known)
            source = self._producers[node.input[0]]
            bias_scale = None if restored is None else self._tied.get(source.input[1], source.input[1])
        return LayerStep(
            node.op_type, attributes, self._resolve(node.input[0]), node.output[0], weight, axis, bias, bias_scale
        )

    def _dequantised(self, node: Any) -> Array:
        values, scale, *zero = (self._to_array(self._stored[name]) for name in node.input)
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        shape = [-1 if k == axis % max(1, values.ndim) else 1 for k in range(values.ndim)] if scale.ndim else []
        levels = values.astype(np.float32) - (zero[0].astype(np.float32).reshape(shape) if zero else 0)
        found: Array = (levels * scale.reshape(shape)).astype(np.float32)
        return found

    def _resolve(self, name: str) -> str:
        """A value's name; of a dequantised activation that of its rounding, which gives it in float already."""
        node = self._producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear" and node.input[0] not in self._stored:
            return str(node.input[0])
        return name

    def _ties(self) -> dict[str, str]:
        """Scales that onnxruntime.quantization makes those of other values: the input of a ReLU has its output's."""
        reads = Counter(name for node in self._exact.node for name in node.input)
        ties = {}
        for node in self._exact.node:
            if node.op_type in ("Relu", "Clip") and reads[node.input[0]] == 1:
                before, after = (f"{name}{_SUFFIX}" for name in (node.input[0], node.output[0]))
                if before in self._stored and after in self._stored:
                    ties[before] = after
        return ties


def _with_unread(steps: list[Step], output: str) -> tuple[Step, ...]:
    """The steps with the values that nothing reads after each, so that they can be given up."""
    found: list[Step] = []
    later = {output}
    given = {name for step in steps for name in step.outputs}
    for step in reversed(steps):
        names = {*step.inputs, *step.outputs} & given
        found.append(replace(step, unread=tuple(sorted(names - later))))
        later |= names
    return tuple(reversed(found))
