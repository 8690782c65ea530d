"""What every runner keeps to: open an artefact, give it images, get logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from compress.errors import ExportError


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
