"""What every runner keeps to: open an artefact, give it images, get logits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

from ..pt2.export import first_line

_NO_MEMORY = re.compile(r"out of memory|bad_?alloc|bad allocation|allocate memory|OutOfMemory", re.IGNORECASE)
_COLOURS = (1, 3, 4)


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


def refuse_not_finite(images: NDArray[Any], name: str) -> None:
    """Refuse images (N, 3, H, W) that hold NaN or infinity: no logits of theirs mean anything.

    Raises:
        ExportError: how many of the images, and which is the first.
    """
    finite = np.isfinite(images)
    if finite.all():
        return
    wrong = np.flatnonzero(~finite.reshape(len(images), -1).all(1))
    raise ExportError(
        f"{name} was given NaN or infinity in {len(wrong)} of {len(images)} images, the first of them image "
        f"{wrong[0]}: repair or leave out these images"
    )


class BaseRunner(ABC):
    """Checks what goes in and puts what fails into words; subclasses open, compute and close.

    ``device_ms``: how long the last call computed on its device, copies to and from it apart; None on a CPU, where
    the time of the whole call says it.
    """

    def __init__(self, name: str, runtime: str, precision: str) -> None:
        self.name = name
        self.runtime = runtime
        self.precision = precision
        self.device_ms: float | None = None
        self._is_open = False
        self._failures: tuple[type[Exception], ...] = (MemoryError, RuntimeError)  # what _run raises
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
        self.device_ms = None
        self._close()

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, 3, H, W) float32 in [0, 1] -> logits (N, classes) float32, in host memory.

        Raises:
            ExportError: the runner is not open, it does not take images of this dtype, layout or size, they hold NaN
                or infinity, or the runtime fails (out of memory, say).
        """
        if not self._is_open:
            raise ExportError(f"{self.name} is not open: call run() inside 'with runner:'")
        self._check(images)
        try:
            return self._run(images)
        except self._failures as error:
            raise self._in_words(error, images) from error

    def _check(self, images: NDArray[np.float32]) -> None:
        if images.dtype != np.float32 or images.ndim != 4 or len(images) == 0:
            raise ExportError(f"images are {images.dtype} {images.shape}: give float32 (N, 3, H, W), N >= 1")
        given, wanted = images.shape[1:], self._image_shape
        turned = (given[2], given[0], given[1])
        channels_last = given[2] in _COLOURS and given[0] not in _COLOURS if wanted is None else turned == wanted
        if channels_last and given != wanted:
            raise ExportError(
                f"{self.name} was given images of {given}, channels last (NHWC): it takes channels first, "
                f"{turned}; transpose them, images.transpose(0, 3, 1, 2)"
            )
        if wanted is not None and given != wanted:
            raise ExportError(f"{self.name} takes images of {wanted}, not {given}: resize them")
        refuse_not_finite(images, self.name)

    def _in_words(self, error: Exception, images: NDArray[np.float32]) -> ExportError:
        size = "x".join(map(str, images.shape[1:]))
        given = f"{len(images)} images of {size}" if len(images) > 1 else f"an image of {size}"
        if isinstance(error, MemoryError) or _NO_MEMORY.search(f"{type(error).__name__} {error}"):
            remedy = "give smaller batches" if len(images) > 1 else "free some memory, or take a larger device"
            return ExportError(f"{self.name} ran out of memory in {self.runtime} with {given} in one call: {remedy}")
        return ExportError(f"{self.name} failed in {self.runtime} on {given} ({first_line(error)})")

    @abstractmethod
    def _open(self) -> None:
        """Make what ``_run`` needs; leave nothing behind on failure."""

    @abstractmethod
    def _close(self) -> None:
        """Release what ``_open`` made."""

    @abstractmethod
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of checked images; where there is a device, set ``device_ms``."""
