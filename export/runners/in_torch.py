"""PyTorch: a module as it is, the same one compiled, and exported programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..pt2.export import first_line, load_program, quiet
from .base import BaseRunner, to_input
from .on_gpu import timers

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_NO_COMPILER = ("InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton")


class _TorchBase(BaseRunner):
    """Runs a module where its parameters are; pins torch's threads while open."""

    def __init__(self, name: str, runtime: str, precision: str, threads: int | None) -> None:
        super().__init__(name, runtime, precision)
        self._threads = threads
        self._threads_before: int | None = None
        self._model: Callable[[Tensor], Tensor] | None = None
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
        batch = torch.from_numpy(images).to(self._device, self._dtype)
        if self._device.type != "cuda":
            host: NDArray[np.float32] = self._model(batch).float().cpu().numpy()
            return host
        start, end = timers()
        with _without_tf32():
            start.record()
            logits = self._model(batch)
            end.record()
        # .cpu() waits for the device, so the result is really there when a clock is read next.
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        self.device_ms = start.elapsed_time(end)
        return result


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Inside the block a GPU's fp32 is fp32: by default cuDNN rounds the factors of convolutions to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


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
        self._module, self._device, self._dtype = model, first.device, first.dtype
        self._model = model
        self._were_training: list[nn.Module] = []

    def _open(self) -> None:
        self._were_training = [module for module in self._module.modules() if module.training]
        self._module.eval()
        self._pin()

    def _close(self) -> None:
        self._unpin()
        for module in self._were_training:
            module.training = True  # one by one: train() would also turn on parts that were frozen
        self._were_training = []


class CompiledRunner(TorchRunner):
    """A torch model through ``torch.compile``, one piece of code for each batch size that comes.

    It is compiled on opening for ``example``, and at the first call for every other batch size: let that call pass
    before a clock is read. What cannot be compiled is refused, never run eagerly instead.

    Args:
        model, threads, name: as for ``TorchRunner``.
        example: (N, 3, H, W) images in the batch size that will be run, uint8 or floating point in [0, 1].

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
        # With fullgraph torch refuses what it would otherwise run eagerly: breaks, and ever more batch sizes.
        compiled: Callable[[Tensor], Tensor] = torch.compile(self._module, dynamic=False, fullgraph=True)
        sizes: set[int] = set()

        def compile_or_say(batch: Tensor) -> Tensor:
            if len(batch) in sizes:
                return compiled(batch)
            expected = self._module(batch)  # an image that the model does not take is not the compiler's fault
            try:
                with quiet():
                    logits = compiled(batch)
            except (RuntimeError, OSError) as error:
                raise _not_compiled(error, self.name, self.runtime) from error
            assert logits.shape == expected.shape
            sizes.add(len(batch))
            return logits

        self._model = compile_or_say
        if self._example is not None:
            try:
                self._check(self._example)
                self._run(self._example)
            except ExportError:
                self._close()
                raise

    def _close(self) -> None:
        super()._close()
        self._model = self._module


def _not_compiled(error: Exception, name: str, runtime: str) -> ExportError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    missing = next((cause for cause in causes if type(cause).__name__ in _NO_COMPILER), None)
    if missing is not None:
        return RuntimeMissing(
            f"{runtime} has no compiler here ({first_line(missing)}): install one (g++ for a CPU, Triton for "
            "a GPU), or choose another runtime"
        )
    return ExportError(f"{name} cannot be compiled ({first_line(error)}): run it in another runtime")


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
