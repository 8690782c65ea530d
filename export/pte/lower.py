"""Writing ``.pte`` files: traced as for ``.pt2``, lowered to the XNNPACK delegate, and read back.

to_edge_transform_and_lower: https://docs.pytorch.org/executorch/stable/using-executorch-export.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from slimsight.compress.errors import ExportError, Unsupported, first_error_line
from slimsight.compress.files.atomic import atomic_path

from ..pt2.export import trace
from .quantise import quantised
from .runtime import import_executorch, quiet_executorch

METADATA_METHOD: Final = "slimsight"
"""A method without inputs that gives the file's metadata as JSON."""

_BOOKKEEPING: Final = frozenset({"getitem", "sym_size", "executorch_call_delegate"})
_HEAVY: Final = frozenset({"convolution", "linear", "addmm", "mm"})
_LOWERING_ERRORS: Final = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)


@dataclass(frozen=True)
class LoweredOperator:
    """An operator of the lowered graph, and the layer that it comes from; "" where none is known."""

    name: str
    layer: str


@dataclass(frozen=True)
class Delegation:
    """What a ``.pte`` file runs in XNNPACK and what not.

    Args:
        delegated: operators that the delegate took, in order; ``remaining``: those that run in ExecuTorch's kernels.
        calls: of the delegate, and ``kernels``: called outside of it, both as they stand in the file.
        integer_layers: convolutions and linear layers that the delegate was given with integer inputs and weights;
            ``float_layers``: the others.
    """

    delegated: tuple[LoweredOperator, ...]
    remaining: tuple[LoweredOperator, ...]
    calls: int
    kernels: tuple[str, ...]
    integer_layers: tuple[str, ...]
    float_layers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Its entry in export.json."""

        def listed(operators: tuple[LoweredOperator, ...]) -> list[dict[str, str]]:
            return [{"operator": operator.name, "layer": operator.layer} for operator in operators]

        return {
            "backend": "xnnpack",
            "delegated": listed(self.delegated),
            "remaining": listed(self.remaining),
            "calls": self.calls,
            "kernels": list(self.kernels),
            "integer_layers": list(self.integer_layers),
            "float_layers": list(self.float_layers),
        }


def export_pte(
    model: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    most: int = 1,
    calibration: NDArray[np.float32] | None = None,
) -> Delegation:
    """Write ``model`` as ``.pte`` for calls of 1 to ``most`` images; atomically.

    Its memory is planned for ``most`` images, so that more than needed costs the device memory.

    Args:
        model: raw images (N, 3, H, W) -> logits (N, classes); copied to the CPU in eval mode, not changed.
        example: (N, 3, H, W), any N; only its shape and dtype are used.
        metadata: what the file says of itself, by its method ``METADATA_METHOD``.
        calibration: (N, 3, H, W) training images in [0, 1] that INT8 ranges are measured on; None: FP32.

    Raises:
        RuntimeMissing: ExecuTorch is not installed.
        Unsupported: it cannot lower the model.
        ExportError: the model cannot be traced.
        RunError: the disk is full or the folder is not writable.
    """
    exir = import_executorch("executorch.exir")
    partitioner = import_executorch("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    program = trace(model, example, most=most)
    constants = {} if metadata is None else {METADATA_METHOD: json.dumps(dict(metadata), sort_keys=True)}
    try:
        if calibration is not None:
            program = quantised(program, calibration, most)
        with quiet_executorch():
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner()], constant_methods=constants)
            graph = lowered.exported_program().graph_module
            operators = tuple(_delegated(graph)), tuple(_operators(graph))
            content = bytes(lowered.to_executorch().buffer)
    except _LOWERING_ERRORS as error:
        raise Unsupported(
            f"ExecuTorch cannot lower the model ({first_error_line(error)}): export it to onnx or pt2 instead"
        ) from error
    calls, kernels = _read_back(content, most)
    with atomic_path(path) as part:
        part.write_bytes(content)
    return Delegation(*operators, calls, kernels, *_layers_by_type(graph))


def _delegated(graph: Any) -> Iterator[LoweredOperator]:
    for part in _delegated_graphs(graph):
        yield from _operators(part)


def _delegated_graphs(graph: Any) -> Iterator[Any]:
    for node in graph.graph.nodes:
        lowered: Any = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if hasattr(lowered, "original_module"):
            yield lowered.original_module.graph_module


def _layers_by_type(graph: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the convolutions and linear layers in integers, and of the others."""
    integer: list[str] = []
    floating: list[str] = []
    for part, is_delegated in ((graph, False), *((part, True) for part in _delegated_graphs(graph))):
        for node in part.graph.nodes:
            operator = _to_operator(node)
            if operator is not None and operator.name.split(".")[0] in _HEAVY:
                given = [str(source) for source in node.args[:2]]
                whole = is_delegated and all("dequantize_per" in source for source in given)
                (integer if whole else floating).append(operator.layer or node.name)
    return tuple(integer), tuple(floating)


def _operators(graph: Any) -> Iterator[LoweredOperator]:
    """The operators of a graph without those that only pass values on."""
    found = map(_to_operator, graph.graph.nodes)
    yield from (operator for operator in found if operator is not None)


def _to_operator(node: Any) -> LoweredOperator | None:
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", str(node.target)).removeprefix("aten.")
    if name.split(".")[0] in _BOOKKEEPING:
        return None
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    layer = str(stack[-1][0]) if stack else ""
    return LoweredOperator(name, "" if layer.startswith("_empty") else layer)


def _read_back(content: bytes, most: int) -> tuple[int, tuple[str, ...]]:
    """Calls of a delegate, and the kernels called outside of it, in the program that the file holds.

    Raises:
        Unsupported: it was planned for fewer than ``most`` images, as lowering may narrow a free size.
        ExportError: the delegate took nothing.
    """
    serialized = import_executorch("executorch.exir._serialize._program").deserialize_pte_binary(content)
    plans = getattr(serialized, "program", serialized).execution_plan
    plan = next(plan for plan in plans if plan.name == "forward")
    planned = plan.values[plan.inputs[0]].val.sizes[0]
    if planned < most:
        raise Unsupported(
            f"ExecuTorch plans this model for {planned} images per call at most, not {most}: give a smaller --batch, "
            f"e.g. --batch {planned}"
        )
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    kernels = [plan.operators[call.op_index].name for call in calls if type(call).__name__ == "KernelCall"]
    delegates = sum(type(call).__name__ == "DelegateCall" for call in calls)
    if not delegates:
        raise ExportError("XNNPACK took no part of the model: run it in another runtime")
    return delegates, tuple(kernels)


def says_slimsight(path: Path) -> bool:
    """Whether a ``.pte`` file holds metadata of slimsight; without ExecuTorch."""
    return b'"slimsight_version"' in path.read_bytes()
