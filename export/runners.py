"""One protocol over runtimes: open an artefact, give it images, get logits."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.errors import ExportError

from .to_torch_export import first_line, load_program

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Runner(Protocol):
    """Something that computes logits while it is open (``with runner: runner.run(images)``)."""

    @property
    def name(self) -> str:
        """What runs, e.g. the file's name."""

    @property
    def runtime(self) -> str:
        """Which runtime on which device, e.g. ``onnxruntime-cpu``."""

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16``, ..."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, 3, H, W) in [0, 1] -> logits (N, classes); returns when they are in host memory."""


def to_input(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images (N, 3, H, W) as runners take them: float32 in [0, 1]; uint8 is divided by 255.

    Raises:
        ExportError: neither uint8 nor floating point.
    """
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images, dtype=np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise ExportError(f"images are {images.dtype}: give uint8 (0 to 255) or floating point (0 to 1)")
    return np.ascontiguousarray(images, dtype=np.float32)


class BaseRunner(ABC):
    """Checks what goes in; subclasses open, compute and close."""

    def __init__(self, name: str, runtime: str, precision: str) -> None:
        self.name = name
        self.runtime = runtime
        self.precision = precision
        self._is_open = False
        self._image_shape: tuple[int, ...] | None = None  # (3, H, W) where the artefact fixes it

    def __enter__(self) -> Self:
        if self._is_open:
            raise ExportError(f"{self.name} is already open: close it before opening it again")
        self._open()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._close()

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, 3, H, W) float32 in [0, 1] -> logits (N, classes) float32, in host memory.

        Raises:
            ExportError: the runner is not open, or the artefact does not take images of this dtype or shape.
        """
        if not self._is_open:
            raise ExportError(f"{self.name} is not open: call run() inside 'with runner:'")
        if images.dtype != np.float32 or images.ndim != 4 or len(images) == 0:
            raise ExportError(f"images are {images.dtype} {images.shape}: give float32 (N, 3, H, W), N >= 1")
        if self._image_shape is not None and images.shape[1:] != self._image_shape:
            raise ExportError(f"{self.name} takes images of {self._image_shape}, not {images.shape[1:]}")
        return self._run(images)

    @abstractmethod
    def _open(self) -> None:
        """Make what ``_run`` needs; leave nothing behind on failure."""

    @abstractmethod
    def _close(self) -> None:
        """Release what ``_open`` made."""

    @abstractmethod
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of checked images."""


class _TorchBase(BaseRunner):
    """Runs a module where its parameters are; pins torch's threads while open."""

    def __init__(self, name: str, runtime: str, precision: str, threads: int | None) -> None:
        super().__init__(name, runtime, precision)
        self._threads = threads
        self._threads_before: int | None = None
        self._model: nn.Module | None = None
        self._device = torch.device("cpu")
        self._dtype = torch.float32

    def _pin(self) -> None:
        if self._threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._threads)

    def _unpin(self) -> None:
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._model is not None
        logits = self._model(torch.from_numpy(images).to(self._device, self._dtype))
        # .cpu() waits for the device, so the result is really there when a clock is read next.
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result


def _precision(dtype: torch.dtype) -> str:
    return _PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))


class TorchRunner(_TorchBase):
    """A torch model as it is: on its device, in eval mode while open (its training flags come back after).

    Args:
        model: raw images (N, 3, H, W) -> logits (N, classes).
        threads: torch's intra-op threads while open, for the whole process; None leaves them.
        name: what reports call it.
    """

    def __init__(self, model: nn.Module, threads: int | None = None, *, name: str = "torch") -> None:
        first = next(iter(model.parameters()), torch.empty(0))
        super().__init__(name, f"torch-{first.device.type}", _precision(first.dtype), threads)
        self._model, self._device, self._dtype = model, first.device, first.dtype
        self._were_training: list[nn.Module] = []

    def _open(self) -> None:
        assert self._model is not None
        self._were_training = [module for module in self._model.modules() if module.training]
        self._model.eval()
        self._pin()

    def _close(self) -> None:
        self._unpin()
        for module in self._were_training:
            module.training = True  # one by one: train() would also turn on parts that were frozen
        self._were_training = []


class Pt2Runner(_TorchBase):
    """A ``.pt2`` file on the CPU, loaded while open.

    Raises:
        ExportError: on opening, when the file is missing or unreadable.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path.name, "torch.export-cpu", "fp32", threads)
        self._path = path

    def _open(self) -> None:
        program = load_program(self._path)
        if program.example_inputs is not None:
            example = program.example_inputs[0][0]
            self._image_shape, self._dtype = tuple(example.shape[1:]), example.dtype
            self.precision = _precision(example.dtype)
        self._model = program.module()
        self._pin()

    def _close(self) -> None:
        self._unpin()
        self._model = None


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
