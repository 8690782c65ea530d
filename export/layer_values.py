"""What every layer of a network gives for some images, in order of execution: a graph of torch's, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from .onnx_graph import import_onnx
from .runners import CPU, open_session

Values = Mapping[str, NDArray[Any]]
"""Name of a value -> the value, in order of execution."""


class _Recorder(Interpreter):
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
    recorder = _Recorder(program.module())
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
