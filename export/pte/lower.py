"""Writing ``.pte`` files: traced as for ``.pt2``, lowered to the XNNPACK delegate, and read back.

to_edge_transform_and_lower: https://docs.pytorch.org/executorch/stable/using-executorch-export.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from slimsight.compress.errors import ExportError, Unsupported, first_error_line
from slimsight.compress.files.atomic import atomic_path

from ..pt2.export import trace
from .runtime import import_executorch, quiet_executorch

METADATA_METHOD: Final = "slimsight"
"""A method without inputs that gives the file's metadata as JSON."""

_BOOKKEEPING: Final = frozenset({"getitem", "sym_size", "executorch_call_delegate"})
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
    """

    delegated: tuple[LoweredOperator, ...]
    remaining: tuple[LoweredOperator, ...]
    calls: int
    kernels: tuple[str, ...]

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
        }


def export_pte(
    model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str] | None = None, *, most: int = 1
) -> Delegation:
    """Write ``model`` as ``.pte`` for calls of 1 to ``most`` images; atomically.

    Its memory is planned for ``most`` images, so that more than needed costs the device memory.

    Args:
        model: raw images (N, 3, H, W) -> logits (N, classes); copied to the CPU in eval mode, not changed.
        example: (N, 3, H, W), any N; only its shape and dtype are used.
        metadata: what the file says of itself, by its method ``METADATA_METHOD``.

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
    return Delegation(*operators, calls, kernels)


def _delegated(graph: Any) -> Iterator[LoweredOperator]:
    for node in graph.graph.nodes:
        lowered: Any = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if hasattr(lowered, "original_module"):
            yield from _operators(lowered.original_module.graph_module)


def _operators(graph: Any) -> Iterator[LoweredOperator]:
    """The operators of a graph without those that only pass values on."""
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", str(node.target)).removeprefix("aten.")
        if name.split(".")[0] not in _BOOKKEEPING:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            layer = str(stack[-1][0]) if stack else ""
            yield LoweredOperator(name, "" if layer.startswith("_empty") else layer)


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
