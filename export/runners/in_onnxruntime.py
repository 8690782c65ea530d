"""ONNX Runtime: files, with their buffers bound."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ExportError

from ..to_torch_export import first_line
from .base import BaseRunner


class OnnxRunner(BaseRunner):
    """An ONNX file in ONNX Runtime: sequential, ``threads`` intra-op threads that do not spin, bound buffers.

    Threads that spin would steal the core from whatever is timed in turn with this runner.

    Args:
        path: the file; one input (batch, 3, H, W) fp32, one output (batch, classes).
        threads: intra-op threads.
        provider: the execution provider that must run it; ONNX Runtime's silent fall-back is refused.
        precision: what reports call its arithmetic.

    Raises:
        ExportError: on opening, when ONNX Runtime, the provider or the file is missing or unusable.
    """

    def __init__(
        self, path: Path, threads: int = 1, *, provider: str = "CPUExecutionProvider", precision: str = "fp32"
    ) -> None:
        device = provider.removesuffix("ExecutionProvider").lower()
        super().__init__(path.name, f"onnxruntime-{device}", precision)
        self._path, self._threads, self._provider = path, threads, provider
        self._session: Any = None
        self._input = ""
        self._bound: dict[int, tuple[NDArray[np.float32], Any]] = {}  # batch size -> its buffer and binding

    def _open(self) -> None:
        ort = import_onnxruntime()
        if not self._path.is_file():
            raise ExportError(f"there is no {self._path}: export the model to onnx first")
        available = ort.get_available_providers()
        if self._provider not in available:
            raise ExportError(f"ONNX Runtime has no {self._provider} here: choose from {', '.join(available)}")
        session = open_session(self._path, self._threads, self._provider)
        if session.get_providers()[0] != self._provider:
            raise ExportError(
                f"ONNX Runtime cannot start {self._provider}: its driver or libraries are missing here; "
                "install them, or use CPUExecutionProvider"
            )
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
            raise ExportError(f"{self._path} takes {found}: one float input (batch, 3, H, W) is needed")
        self._session, self._input = session, inputs[0].name
        sizes = tuple(inputs[0].shape[1:])
        self._image_shape = sizes if all(isinstance(size, int) for size in sizes) else None

    def _close(self) -> None:
        self._bound.clear()
        self._session = None

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
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
    path: Path, threads: int, provider: str = "CPUExecutionProvider", *, profile: Path | None = None
) -> Any:
    """A session that runs nodes one after the other on ``threads`` threads.

    Args:
        profile: where its profile starts to be named; ``session.end_profiling()`` then says the whole name.

    Raises:
        ExportError: ONNX Runtime is missing or cannot open the file.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    # ONNX Runtime's errors share no base class of their own.
    names = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NotImplemented", "Fail")
    failures = tuple(getattr(state, name) for name in names)
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except failures as error:
        raise ExportError(f"ONNX Runtime cannot open {path} ({first_line(error)}): export it again") from error


def import_onnxruntime() -> Any:
    """The module, quiet.

    Raises:
        ExportError: it is not installed.
    """
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ExportError(
            "ONNX Runtime is missing: pip install onnxruntime-gpu (Linux x86-64) or onnxruntime (elsewhere)"
        ) from error
    # Fatal only: failures also come as exceptions, and a machine without a GPU would warn about it.
    ort.set_default_logger_severity(4)
    return ort
