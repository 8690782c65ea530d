"""PyTorch: a module as it is, and exported programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..to_torch_export import load_program
from .base import BaseRunner

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


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
