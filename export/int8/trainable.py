"""A quantised (Q/DQ) ONNX graph in PyTorch, with the weights, biases and scales of activations to be trained.

It runs the graph's own nodes, so that values are rounded exactly where the INT8 file rounds them: an activation at each
QuantizeLinear, a weight to int8 by its largest value, and a bias to int32 in steps of both scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .fake_quantise import FakeQuantise, round_bias, round_weight, weight_scale
from .torch_graph import LayerStep, OperatorStep, RoundStep, TorchGraph
from .torch_operators import run_operator

SCALE_SPEED: Final = 10.0
"""A scale is its calibrated value x exp(SCALE_SPEED x its parameter).

AdamW moves every parameter by about the learning rate: scales thus change by ten times that share of themselves. The
logarithm keeps them positive (Jain et al. 2020, "Trained Quantization Thresholds", arXiv:1903.08066, section 3.2).
"""


@dataclass(frozen=True)
class Trained:
    """What a training changes of a file: ``weights`` and biases by their names in the FP32 graph, and ``ranges``.

    ``ranges``: the least and the largest value that is not clipped, by the name of the value.
    """

    weights: Mapping[str, NDArray[np.float32]]
    ranges: Mapping[str, tuple[float, float]]


class TrainableInt8(nn.Module):
    """(N, 3, H, W) float32 as the file takes them -> logits (N, classes), as the INT8 file computes them.

    Args:
        graph: of the INT8 file; or of an FP32 file, which runs without rounding and has nothing to train.
    """

    bases: Tensor
    speeds: Tensor

    def __init__(self, graph: TorchGraph) -> None:
        super().__init__()
        self._graph = graph
        self._constants = tuple(graph.constants)
        for number, value in enumerate(graph.constants.values()):
            self.register_buffer(f"constant{number}", torch.from_numpy(value.copy()))
        self._rows = {name: row for row, name in enumerate(graph.scales)}
        self.register_buffer("bases", torch.tensor(list(graph.scales.values()), dtype=torch.float32))
        speeds = [0.0 if name in graph.fixed else SCALE_SPEED for name in graph.scales]
        self.register_buffer("speeds", torch.tensor(speeds))
        self.log_scales = nn.Parameter(torch.zeros(len(graph.scales)))
        self._slots = {name: slot for slot, name in enumerate(graph.weights)}
        self.weights = nn.ParameterList(torch.from_numpy(value.copy()) for value in graph.weights.values())

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # what is rounded here must not be rounded before
            return self._run(images.to(self.bases.dtype))

    def _run(self, images: Tensor) -> Tensor:
        graph, scales = self._graph, self._scales()
        values: dict[str, Any] = {graph.input: images, "": None}
        values |= {name: getattr(self, f"constant{number}") for number, name in enumerate(self._constants)}
        for step in graph.steps:
            if isinstance(step, RoundStep):
                scale = scales[self._rows[step.scale]]
                values[step.output] = FakeQuantise.apply(
                    values[step.input], scale, step.zero_point, step.low, step.high
                )
            elif isinstance(step, LayerStep):
                inputs = [values[step.input], *self._parameters_of(step, scales)]
                (values[step.output],) = run_operator(step.operator, step.attributes, inputs)
            else:
                assert isinstance(step, OperatorStep)
                found = run_operator(step.operator, step.attributes, [values[name] for name in step.inputs])
                values.update(zip(step.outputs, found, strict=True))
            for name in step.unread:
                del values[name]
        logits: Tensor = values[graph.output]
        return logits

    def _scales(self) -> Tensor:
        """Scales of all roundings (K,), in the graph's order."""
        return self.bases * torch.exp(self.speeds * self.log_scales)

    def _parameters_of(self, step: LayerStep, scales: Tensor) -> tuple[Tensor, Tensor | None]:
        """A layer's weight and bias as the file holds them."""
        weight = self.weights[self._slots[step.weight]]
        bias = None if step.bias is None else self.weights[self._slots[step.bias]]
        if bias is None or step.bias_scale is None:
            return round_weight(weight, weight_scale(weight, step.axis)), bias
        input_scale = scales[self._rows[step.bias_scale]]
        scale = weight_scale(weight, step.axis, bias=bias, input_scale=input_scale)
        return round_weight(weight, scale), round_bias(bias, input_scale, scale)

    def trained(self) -> Trained:
        """The weights as they are now, and the ranges of the scales."""
        weights = {name: self.weights[slot].detach().cpu().numpy() for name, slot in self._slots.items()}
        scales = self._scales().detach().cpu().tolist()
        ranges = {}
        for step in self._graph.steps:
            if isinstance(step, RoundStep) and step.scale not in self._graph.fixed:
                scale = scales[self._rows[step.scale]]
                # A symmetric scale is that of the largest value: -128 is beyond it.
                low = step.low - step.zero_point if step.low == 0 else -step.high
                ranges[self._graph.value_of(step.scale)] = (low * scale, (step.high - step.zero_point) * scale)
        return Trained(weights, ranges)
