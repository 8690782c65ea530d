"""The ExecuTorch runner: ``.pte`` files on the CPU, by XNNPACK, through its Python runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing, first_error_line

from ..pte.runtime import import_executorch, quiet_executorch, why_no_executorch
from .base import BaseRunner, Runtime

_RANK = 4


_opened: set[int] = set()
"""Identities of the runners that are open in this process: their programs hold its threads."""


class ExecuTorchRunner(BaseRunner):
    """Runs a ``.pte`` file on the CPU. XNNPACK's threads are of the whole process, and stay as they were set.

    Args:
        path: the file; method ``forward`` from (batch, 3, H, W) fp32 to (batch, classes).
        threads: of XNNPACK.

    Raises:
        RuntimeMissing: on opening, when ExecuTorch is missing.
        ExportError: on opening, when the file is missing, cut off, or takes something else.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        super().__init__(path.name, "executorch-cpu", "fp32")
        self._path, self._threads = path, threads
        self._method: Any = None
        self._program: Any = None
        self._most = 0

    def _open(self) -> None:
        runtime = import_executorch("executorch.runtime").Runtime
        if not self._path.is_file():
            raise ExportError(f"there is no {self._path}: export the model to executorch first")
        self._set_threads(self._threads)
        try:
            with quiet_executorch():
                program = runtime.get().load_program(str(self._path))
                method = program.load_method("forward")
                tensor = None if method is None else method.metadata.input_tensor_meta(0)
            sizes = () if tensor is None else tuple(tensor.sizes())
            if len(sizes) != _RANK:
                raise ExportError(f"{self._path} takes a tensor of sizes {sizes}: images (batch, 3, H, W) are needed")
        except (RuntimeError, ValueError, IndexError) as error:
            self._close()
            raise ExportError(
                f"{self._path} is not a .pte that ExecuTorch opens ({first_error_line(error)}): export it again"
            ) from error
        except ExportError:
            self._close()
            raise
        self._most, self._image_shape = sizes[0], sizes[1:]
        self._program, self._method = program, method
        _opened.add(id(self))

    def _set_threads(self, count: int) -> None:
        """Threads of all programs of this process; a program that is open would go on with a pool that is gone."""
        pool = import_executorch("executorch.extension.pybindings.portable_lib")
        with quiet_executorch():  # the first call looks for the processor, and says what it does not find
            there = pool._threadpool_get_thread_count()
        if there == count:
            return
        if _opened:
            raise ExportError(f"{self.name} cannot have {count} threads while another .pte file is open with others")
        with quiet_executorch():
            pool._unsafe_reset_threadpool(count)
        if (found := pool._threadpool_get_thread_count()) != count:
            raise RuntimeMissing(f"ExecuTorch has {found} threads here, not {count}: choose that number")

    def _close(self) -> None:
        self._method = self._program = None
        _opened.discard(id(self))

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(images) > self._most:
            raise ExportError(
                f"{self.name} takes 1 to {self._most} images per call, not {len(images)}: export it with --batch"
            )
        outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(images))])
        return np.array(outputs[0].detach().numpy(), np.float32)  # a copy: its memory is used again


RUNTIMES = (
    Runtime(
        "executorch",
        (".pte",),
        lambda path, _device, threads: ExecuTorchRunner(path, threads),
        why_no_executorch,
        packages=("executorch",),
    ),
)
