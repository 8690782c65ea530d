"""ONNX Runtime: files on the CPU, or on a GPU by CUDA or TensorRT, with their buffers bound."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..onnx_files.graph import runtime_errors
from ..pt2.export import first_line
from .base import BaseRunner
from .on_gpu import BoundOnGpu, provider_options

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class OnnxRunner(BaseRunner):
    """An ONNX file in ONNX Runtime: sequential, ``threads`` intra-op threads that do not spin, bound buffers.

    Threads that spin would steal the core from whatever is timed in turn with this runner. On a GPU images and logits
    lie in its memory while the graph runs, and ``device_ms`` is the time between.

    Args:
        path: the file; one input (batch, 3, H, W) fp32, one output (batch, classes).
        threads: intra-op threads.
        provider: the execution provider that must run it; ONNX Runtime's silent fall-back is refused.
        precision: what reports call its arithmetic; what TensorRT is given as fp32 it computes in ``tf32``.

    Raises:
        RuntimeMissing: on opening, when ONNX Runtime or the provider (its driver, its libraries) is missing.
        ExportError: on opening, when the file is missing or unusable, or part of it would run on another provider.
    """

    def __init__(self, path: Path, threads: int = 1, *, provider: str = CPU, precision: str = "fp32") -> None:
        device = provider.removesuffix("ExecutionProvider").lower()
        rounded = provider == TENSORRT and precision == "fp32"
        super().__init__(path.name, f"onnxruntime-{device}", "tf32" if rounded else precision)
        self._path, self._threads, self._provider = path, threads, provider
        self._session: Any = None
        self._input = ""
        self._bound: dict[int, tuple[NDArray[np.float32], Any]] = {}  # batch size -> its buffer and binding
        self._gpu: BoundOnGpu | None = None

    def _open(self) -> None:
        ort = import_onnxruntime()
        if not self._path.is_file():
            raise ExportError(f"there is no {self._path}: export the model to onnx first")
        available = ort.get_available_providers()
        if self._provider not in available:
            raise RuntimeMissing(f"ONNX Runtime has no {self._provider} here: choose from {', '.join(available)}")
        session = open_session(self._path, self._threads, self._provider)
        if session.get_providers()[0] != self._provider:
            raise _cannot_start(self._provider)
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
            raise ExportError(f"{self._path} takes {found}: one float input (batch, 3, H, W) is needed")
        if elsewhere := _elsewhere(session, self._provider):
            raise ExportError(
                f"ONNX Runtime would run {elsewhere} of {self._path} on the CPU and not by {self._provider}: time and "
                "compare it in another runtime"
            )
        self._failures = (MemoryError, RuntimeError, *runtime_errors())
        self._session, self._input = session, inputs[0].name
        sizes = tuple(inputs[0].shape[1:])
        self._image_shape = sizes if all(isinstance(size, int) for size in sizes) else None
        if self._provider != CPU:
            self._gpu = BoundOnGpu(session)

    def _close(self) -> None:
        self._bound.clear()
        self._gpu = self._session = None

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._gpu is not None:
            on_gpu, self.device_ms = self._gpu.run(images)
            return on_gpu
        buffer, binding = self._binding(images)
        np.copyto(buffer, images)
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
        return logits

    def _binding(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], Any]:
        """The input buffer and binding of this batch shape, made once per batch size."""
        known = self._bound.get(len(images))
        if known is None or known[0].shape != images.shape:
            buffer = np.empty(images.shape, np.float32)
            binding = self._session.io_binding()
            binding.bind_cpu_input(self._input, buffer)
            binding.bind_output(self._session.get_outputs()[0].name, "cpu")
            known = self._bound[len(images)] = (buffer, binding)
        return known


def open_session(
    source: Path | bytes, threads: int, provider: str = CPU, *, profile: Path | None = None, optimised: bool = True
) -> Any:
    """A session that runs nodes one after the other on ``threads`` threads.

    Args:
        source: a file, or what one would hold.
        profile: where its profile starts to be named; ``session.end_profiling()`` then says the whole name.
        optimised: False runs the graph as it is stored, node by node.

    Raises:
        RuntimeMissing: ONNX Runtime is missing, or its provider cannot start.
        ExportError: it cannot open the file.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if provider != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    named = source if isinstance(source, bytes) else str(source)
    try:
        # Without its fall-back: it would print, and run on the CPU what was asked of a GPU.
        return ort.InferenceSession(named, options, providers=_providers(provider), enable_fallback=0)
    except runtime_errors() as error:
        what = "the graph" if isinstance(source, bytes) else source
        raise ExportError(f"ONNX Runtime cannot open {what} ({first_line(error)}): export it again") from error
    except RuntimeError as error:  # a provider's libraries: everything about files has classes of its own
        raise _cannot_start(provider) from error


def _providers(provider: str) -> list[Any]:
    if provider == CPU:
        return [CPU]
    # What TensorRT cannot take stays on the GPU; see _elsewhere for the CPU.
    named = [provider, CUDA] if provider == TENSORRT else [provider]
    return [(name, provider_options(name)) for name in named]


def _elsewhere(session: Any, provider: str) -> str:
    """The heavy nodes that ONNX Runtime put on the CPU although a GPU was asked for; "" when there are none."""
    if provider == CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return ""
    on_cpu = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == CPU]
    heavy = [node.name for part in on_cpu for node in part.get_nodes() if node.op_type in _HEAVY]
    more = f" and {len(heavy) - 3} more nodes" if len(heavy) > 3 else ""
    return ", ".join(heavy[:3]) + more


def _cannot_start(provider: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"ONNX Runtime cannot start {provider}: its driver or libraries are missing here; install them, or use {CPU}"
    )


def import_onnxruntime() -> Any:
    """The module, quiet.

    Raises:
        RuntimeMissing: it is not installed.
    """
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissing(
            "ONNX Runtime is missing: pip install onnxruntime-gpu (Linux x86-64) or onnxruntime (elsewhere)"
        ) from error
    # Fatal only: failures also come as exceptions, and a machine without a GPU would warn about it.
    ort.set_default_logger_severity(4)
    return ort
