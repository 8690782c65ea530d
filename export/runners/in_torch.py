"""The runners of PyTorch: a module run eagerly, compiled by torch.compile, or exported as ``.pt2``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimsight.compress.errors import ExportError, RuntimeMissing, first_error_line

from ..pt2.export import load_program, silence_output
from .base import BaseRunner, Runtime, to_input
from .cuda import event_pair

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_MISSING_COMPILER_ERRORS = ("InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton")


class _TorchBase(BaseRunner):
    """Runs a module on its parameters' device; sets torch's number of threads while open."""

    def __init__(self, name: str, runtime: str, precision: str, threads: int | None) -> None:
        super().__init__(name, runtime, precision)
        self._threads = threads
        self._threads_before: int | None = None
        self._model: Callable[[Tensor], Tensor] | None = None
        self._device = torch.device("cpu")
        self._dtype = torch.float32

    def _set_threads(self) -> None:
        if self._threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._threads)

    def _restore_threads(self) -> None:
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._model is not None
        batch = torch.from_numpy(images).to(self._device, self._dtype)
        if self._device.type != "cuda":
            host: NDArray[np.float32] = self._model(batch).float().cpu().numpy()
            return host
        start, end = event_pair()
        with _without_tf32():
            start.record()
            logits = self._model(batch)
            end.record()
        # .cpu() waits for the GPU, so the result has arrived before the caller reads a clock.
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        self.device_ms = start.elapsed_time(end)
        return result


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Disable TF32 inside the block: by default cuDNN rounds the factors of fp32 convolutions to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _precision_name(dtype: torch.dtype) -> str:
    return _PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))


class TorchRunner(_TorchBase):
    """Runs a torch model eagerly on its device, in eval mode while open; then its training flags are restored.

    Args:
        model: raw images (N, 3, H, W) -> logits (N, classes).
        threads: torch's intra-op threads while open, for the whole process; None leaves them unchanged.
        name: what reports call the model.
    """

    def __init__(self, model: nn.Module, threads: int | None = None, *, name: str = "torch") -> None:
        first = next(iter(model.parameters()), torch.empty(0))
        super().__init__(name, f"torch-{first.device.type}", _precision_name(first.dtype), threads)
        self._module, self._device, self._dtype = model, first.device, first.dtype
        self._model = model
        self._were_training: list[nn.Module] = []

    def _open(self) -> None:
        self._were_training = [module for module in self._module.modules() if module.training]
        self._module.eval()
        self._set_threads()

    def _close(self) -> None:
        self._restore_threads()
        for module in self._were_training:
            module.training = True  # not train(), which would also switch frozen children
        self._were_training = []


class CompiledRunner(TorchRunner):
    """Runs a torch model through ``torch.compile``, compiled once for each batch size.

    It is compiled on opening for ``example``, and on the first call of any other batch size: do not time that call.
    A model that cannot be compiled is refused, never run eagerly instead.

    Args:
        model, threads, name: as for ``TorchRunner``.
        example: (N, 3, H, W) images of the batch size to compile for, uint8 or floating point in [0, 1].

    Raises:
        RuntimeMissing: on opening (or the first call), when there is no compiler for the model's device.
        ExportError: the model cannot be compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        threads: int | None = None,
        *,
        name: str = "torch.compile",
        example: NDArray[Any] | None = None,
    ) -> None:
        super().__init__(model, threads, name=name)
        self.runtime = f"torch.compile-{self._device.type}"
        self._example = None if example is None else to_input(example)

    def _open(self) -> None:
        super()._open()
        # fullgraph: torch raises where it would otherwise run eagerly (graph breaks, too many batch sizes).
        compiled: Callable[[Tensor], Tensor] = torch.compile(self._module, dynamic=False, fullgraph=True)
        compiled_sizes: set[int] = set()

        def compile_or_refuse(batch: Tensor) -> Tensor:
            if len(batch) in compiled_sizes:
                return compiled(batch)
            expected = self._module(batch)  # an image that the model refuses is not the compiler's fault
            try:
                with silence_output():
                    logits = compiled(batch)
            except (RuntimeError, OSError) as error:
                raise _compile_error(error, self.name, self.runtime) from error
            assert logits.shape == expected.shape
            compiled_sizes.add(len(batch))
            return logits

        self._model = compile_or_refuse
        if self._example is not None:
            try:
                self._check_images(self._example)
                self._run(self._example)
            except ExportError:
                self._close()
                raise

    def _close(self) -> None:
        super()._close()
        self._model = self._module


def _compile_error(error: Exception, name: str, runtime: str) -> ExportError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    missing = next((cause for cause in causes if type(cause).__name__ in _MISSING_COMPILER_ERRORS), None)
    if missing is not None:
        return RuntimeMissing(
            f"{runtime} has no compiler here ({first_error_line(missing)}): install one (g++ for a CPU, Triton for "
            "a GPU), or choose another runtime"
        )
    return ExportError(f"{name} cannot be compiled ({first_error_line(error)}): run it in another runtime")


class Pt2Runner(_TorchBase):
    """Runs a ``.pt2`` file on the CPU; the program is loaded while open.

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
            self.precision = _precision_name(example.dtype)
        self._model = program.module()
        self._set_threads()

    def _close(self) -> None:
        self._restore_threads()
        self._model = None


def _why_no_compiler() -> str | None:
    """Why torch.compile cannot run here: it writes C++ for the CPU, and needs a compiler for it."""
    if any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name):
        return None
    return "torch.compile needs a C++ compiler: install g++"


def _runtime(name: str, form: str, runner: Callable[[Any, int], BaseRunner], **more: Any) -> Runtime:
    return Runtime(name, (form,), lambda model, _device, threads: runner(model, threads), packages=("torch",), **more)


RUNTIMES = (
    _runtime("torch", "module", TorchRunner),
    _runtime("torch-compile", "module", CompiledRunner, available=_why_no_compiler),
    _runtime("pt2", ".pt2", Pt2Runner),
)
