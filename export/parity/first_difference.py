"""What every layer of a network gives for some images, in order of execution: a graph of torch's, or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
from ..routed.export import with_routes
from ..runners import CPU, open_session
from ..to_onnx import convert

Values = Mapping[str, NDArray[Any]]
"""Name of a value -> the value, in order of execution."""


class _ValueRecorder(Interpreter):
    """Runs a graph and keeps every tensor of floating point that it computes."""

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
    """The values of a program's graph, under the names that the graph has for them."""
    recorder = _ValueRecorder(program.module())
    recorder.run(torch.from_numpy(images))
    return recorder.values


def program_layers(program: ExportedProgram) -> dict[str, str]:
    """Name of a value -> the module in whose forward() it is computed."""
    stacks = ((node.name, node.meta.get("nn_module_stack")) for node in program.graph.nodes)
    return {name: str(list(stack.values())[-1][0]) for name, stack in stacks if stack}


def onnx_values(proto: Any, images: NDArray[np.float32], provider: str = CPU) -> dict[str, NDArray[Any]]:
    """The values of an ONNX model: what its nodes give becomes output of a copy, which then runs as it is stored.

    Branches are left out: what they give comes out of their `If`. Tensors of integers, too.

    Raises:
        ExportError: ONNX Runtime cannot run the copy.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.output}
    given = [name for node in copy.graph.node if node.op_type != "Constant" for name in node.output if name]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in given if name not in known)
    session = open_session(copy.SerializeToString(), 1, provider, optimised=False)
    (taken,) = session.get_inputs()
    floats = {item.name for item in session.get_outputs() if item.type in ("tensor(float)", "tensor(float16)")}
    wanted = [name for name in given if name in floats]
    found = session.run(wanted, {taken.name: images})
    return {name: np.asarray(value, np.float32) for name, value in zip(wanted, found, strict=True)}


def node_names(proto: Any) -> dict[str, str]:
    """Name of a value -> the node that gives it."""
    return {name: node.name for node in proto.graph.node for name in node.output}


@dataclass(frozen=True)
class LayerDifference:
    """``layer`` differs by ``max_abs`` where the reference's largest value is ``scale``; before it nothing does.

    ``place`` of ``compared``: its number among the values that both sides have, in order of execution. ``before``:
    the largest difference ahead of it, relative to its own layer's largest value.
    """

    layer: str
    max_abs: float
    scale: float
    place: int
    compared: int
    before: float

    def __str__(self) -> str:
        return (
            f"first differs in {self.layer}: by {self.max_abs:.1e}, its largest value is {self.scale:.1e} "
            f"(value {self.place} of {self.compared}; before it at most {self.before:.0e} of a layer's largest)"
        )


def first_in_onnx(
    model: nn.Module, path: Path, image: NDArray[np.float32], limit: float, *, provider: str = CPU
) -> LayerDifference | None:
    """The first layer of an exported file that does not give what it gives in ``model``; None: all do.

    Both sides carry the names that torch's exporter gave their values, so that layers are found by name; what one
    side lacks (a folded normalisation, a channel that a route skips) is left out.

    Args:
        model: what the file was exported from; a dynamic classifier for its masked or routed form.
        image: (1, 3, H, W) in [0, 1].
        limit: largest difference that counts as rounding, relative to a layer's largest value.
        provider: ONNX Runtime's execution provider.
    """
    proto = read_onnx(path)
    stated = next(item.version for item in proto.opset_import if not item.domain)
    twin = with_routes(model) if isinstance(model, DynamicClassifier) else model
    outputs = [value.name for value in proto.graph.output]
    program = convert(twin, torch.from_numpy(image), opset=stated, outputs=outputs).exported_program
    ours = program_values(program, image)
    ours |= {name: ours[own] for name, own in zip(outputs, _results(program), strict=True) if own in ours}
    names, modules = node_names(proto), program_layers(program)
    for branches in (node for node in proto.graph.node if node.op_type == "If"):
        names |= {value: f"the branches up to {modules.get(value, value)}" for value in branches.output}
    return _first(ours, onnx_values(proto, image, provider), names, limit, _gated(program))


def first_in_pt2(model: nn.Module, path: Path, image: NDArray[np.float32], limit: float) -> LayerDifference | None:
    """``first_in_onnx`` for a ``.pt2`` file, whose graph is the one that ``model`` is traced to."""
    program = trace(model, torch.from_numpy(image))
    stored = program_values(load_program(path), image)
    return _first(program_values(program, image), stored, program_layers(program), limit)


def _results(program: ExportedProgram) -> list[str]:
    return [spec.arg.name for spec in program.graph_signature.output_specs]


def _gated(program: ExportedProgram) -> dict[str, list[str]]:
    """Name of a value -> the products that it goes into: where a routed file's value already holds its gates."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return {node.name: [user.name for user in node.users if user.name.startswith("mul")] for node in nodes}


def _first(
    ours: Values,
    theirs: Values,
    layers: Mapping[str, str],
    limit: float,
    alternatives: Mapping[str, Iterable[str]] | None = None,
) -> LayerDifference | None:
    shared = [name for name in theirs if name in ours and ours[name].shape == theirs[name].shape]
    before = 0.0
    for place, name in enumerate(shared, 1):
        also = [ours[other] for other in (alternatives or {}).get(name, ()) if other in ours]
        same = [ours[name], *(value for value in also if value.shape == theirs[name].shape)]
        found = min((_difference(value, theirs[name]) for value in same), key=lambda pair: pair[0] / pair[1])
        max_abs, scale = found
        if not max_abs / scale <= limit:
            return LayerDifference(layers.get(name) or name, max_abs, scale, place, len(shared), before)
        before = max(before, max_abs / scale)
    return None


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """The largest difference, infinite where one side is not finite, and the largest value of ours."""
    if ours.size == 0:
        return 0.0, 1.0
    difference = np.abs(ours.astype(np.float64) - theirs)
    return float(np.nan_to_num(difference, nan=np.inf).max()), max(float(np.abs(ours).max()), 1e-30)
