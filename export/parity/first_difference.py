"""The first layer where an exported file and its torch model differ, from the values of all layers on both sides.

Values are recorded in order of execution, of torch's graph and of an ONNX file, and compared by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from slimsight.compress.dynamic import DynamicClassifier

from ..onnx_files.graph import import_onnx, read_onnx
from ..pt2.export import load_program, trace
from ..routed.export import WithRoutes
from ..runners.base import LayerValues
from ..runners.onnxruntime_session import values_in_onnxruntime
from ..to_onnx import to_onnx_program

Values = Mapping[str, NDArray[Any]]
"""Name of a value -> the value, in order of execution."""


class _ValueRecorder(Interpreter):
    """Runs a graph of torch's and records each floating-point tensor that it computes."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.values: dict[str, NDArray[Any]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor) and result.is_floating_point():
            self.values[n.name] = result.detach().float().cpu().numpy().copy()
        return result


@torch.inference_mode()
def program_values(program: ExportedProgram, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The floating-point values of a program's graph, by the names of its nodes."""
    recorder = _ValueRecorder(program.module())
    recorder.run(torch.from_numpy(images))
    return recorder.values


def program_layers(program: ExportedProgram) -> dict[str, str]:
    """Name of a value -> the module in whose forward() it is computed."""
    stacks = ((node.name, node.meta.get("nn_module_stack")) for node in program.graph.nodes)
    return {name: str(list(stack.values())[-1][0]) for name, stack in stacks if stack}


def onnx_values(
    proto: Any, images: NDArray[np.float32], run: LayerValues = values_in_onnxruntime
) -> dict[str, NDArray[Any]]:
    """The floating-point values of an ONNX model in a runtime: they become outputs of a copy.

    Values inside of branches are left out; the outputs of their `If` are included.

    Raises:
        ExportError: the runtime cannot run the copy.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    outputs = {value.name for value in copy.graph.output}
    names = [name for node in copy.graph.node if node.op_type != "Constant" for name in node.output if name]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return run(copy.SerializeToString(), names, images)


def node_names(proto: Any) -> dict[str, str]:
    """Name of a value -> the node that computes it."""
    return {name: node.name for node in proto.graph.node for name in node.output}


@dataclass(frozen=True)
class LayerDifference:
    """The first layer that differs: by ``max_abs``, where the reference's largest value is ``scale``.

    ``position`` of ``compared``: its number among the values that both sides have, in order of execution. ``before``:
    the largest difference of earlier layers, relative to their own largest values.
    """

    layer: str
    max_abs: float
    scale: float
    position: int
    compared: int
    before: float

    def __str__(self) -> str:
        return (
            f"first differs in {self.layer}: by {self.max_abs:.1e}, its largest value is {self.scale:.1e} "
            f"(value {self.position} of {self.compared}; before it at most {self.before:.0e} of a layer's largest)"
        )


class OnnxLayers:
    """The layers of an ONNX file beside those of ``model``, traced once for all runtimes and images of one size.

    Values are matched by the names that torch's exporter gave them; what one side lacks (a folded normalisation, a
    channel that a route skips) is not compared.

    Args:
        model: what the file was exported from; a dynamic classifier for its masked or routed form.
    """

    def __init__(self, model: nn.Module, path: Path) -> None:
        self._model = WithRoutes(model) if isinstance(model, DynamicClassifier) else model
        self._path = path
        self._programs: dict[tuple[int, ...], ExportedProgram] = {}

    @cached_property
    def _proto(self) -> Any:
        return read_onnx(self._path)

    def _program(self, image: NDArray[np.float32], outputs: list[str]) -> ExportedProgram:
        if image.shape not in self._programs:
            stated = next(item.version for item in self._proto.opset_import if not item.domain)
            program = to_onnx_program(self._model, torch.from_numpy(image), opset=stated, outputs=outputs)
            self._programs[image.shape] = program.exported_program
        return self._programs[image.shape]

    def first_difference(
        self, image: NDArray[np.float32], limit: float, run: LayerValues = values_in_onnxruntime
    ) -> LayerDifference | None:
        """The first layer whose values differ between file and model on an image; None if none does.

        Args:
            image: (1, 3, H, W) in [0, 1].
            limit: largest difference that counts as rounding, relative to a layer's largest value.
            run: gives the values of layers in a runtime.
        """
        outputs = [value.name for value in self._proto.graph.output]
        program = self._program(image, outputs)
        expected = program_values(program, image)
        expected |= {
            name: expected[node] for name, node in zip(outputs, _output_nodes(program), strict=True) if node in expected
        }
        names, modules = node_names(self._proto), program_layers(program)
        for node in self._proto.graph.node:
            if node.op_type == "If":
                names |= {value: f"the branches up to {modules.get(value, value)}" for value in node.output}
        return _first_difference(expected, onnx_values(self._proto, image, run), names, limit, _gated_values(program))


def first_in_pt2(model: nn.Module, path: Path, image: NDArray[np.float32], limit: float) -> LayerDifference | None:
    """``OnnxLayers.first_difference`` for a ``.pt2`` file, whose graph is the one that tracing ``model`` gives."""
    program = trace(model, torch.from_numpy(image))
    stored = program_values(load_program(path), image)
    return _first_difference(program_values(program, image), stored, program_layers(program), limit)


def _output_nodes(program: ExportedProgram) -> list[str]:
    return [spec.arg.name for spec in program.graph_signature.output_specs]


def _gated_values(program: ExportedProgram) -> dict[str, list[str]]:
    """Name of a value -> its products with gates: in a routed file the value is multiplied by its gates already."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return {node.name: [user.name for user in node.users if user.name.startswith("mul")] for node in nodes}


def _first_difference(
    expected: Values,
    actual: Values,
    layers: Mapping[str, str],
    limit: float,
    alternatives: Mapping[str, Iterable[str]] | None = None,
) -> LayerDifference | None:
    shared = [name for name in actual if name in expected and expected[name].shape == actual[name].shape]
    before = 0.0
    for position, name in enumerate(shared, 1):
        gated = [expected[product] for product in (alternatives or {}).get(name, ()) if product in expected]
        comparable = [expected[name], *(value for value in gated if value.shape == actual[name].shape)]
        differences = (_difference(value, actual[name]) for value in comparable)
        max_abs, scale = min(differences, key=lambda pair: pair[0] / pair[1])
        if not max_abs / scale <= limit:
            return LayerDifference(layers.get(name) or name, max_abs, scale, position, len(shared), before)
        before = max(before, max_abs / scale)
    return None


def _difference(expected: NDArray[Any], actual: NDArray[Any]) -> tuple[float, float]:
    """The largest difference, infinite where one side is NaN, and the largest magnitude of the expected values."""
    if expected.size == 0:
        return 0.0, 1.0
    difference = np.abs(expected.astype(np.float64) - actual)
    return float(np.nan_to_num(difference, nan=np.inf).max()), max(float(np.abs(expected).max()), 1e-30)
