"""The ExecuTorch runner: ``.pte`` files on the CPU, by XNNPACK, through its Python runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..pte.runtime import LoadedPte, import_executorch, load_pte, quiet_executorch, why_no_executorch
from .base import BaseRunner, Runtime

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
        self._loaded: LoadedPte | None = None

    def _open(self) -> None:
        self._set_threads(self._threads)
        self._loaded = load_pte(self._path)
        self._image_shape = self._loaded.sizes[1:]
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
        self._loaded = None
        _opened.discard(id(self))

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._loaded is not None
        if len(images) > (most := self._loaded.sizes[0]):
            raise ExportError(
                f"{self.name} takes 1 to {most} images per call, not {len(images)}: export it with --batch"
            )
        outputs = self._loaded.method.execute([torch.from_numpy(np.ascontiguousarray(images))])
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
