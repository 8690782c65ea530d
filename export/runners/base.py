"""The interface of runners and runtimes: open a model, give it images, get logits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, first_error_line

from ..onnx_files.layers_run import LayersRun
from ..onnx_files.quantised import Form

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_?alloc|bad allocation|allocate memory|OutOfMemory", re.IGNORECASE)
_COLOUR_CHANNELS = (1, 3, 4)


class Runner(Protocol):
    """A model in one runtime; computes logits while it is open (``with runner: runner.run(images)``)."""

    @property
    def name(self) -> str:
        """What reports call the model, e.g. the file's name."""

    @property
    def runtime(self) -> str:
        """The runtime and its device, e.g. ``onnxruntime-cpu``."""

    @property
    def precision(self) -> str:
        """What the model computes in: ``fp32``, ``fp16``, ``tf32``, ``bf16`` or ``int8``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, 3, H, W) in [0, 1] -> logits (N, classes); returns when they are in host memory."""


LayerValues = Callable[[bytes, Sequence[str], NDArray[np.float32]], dict[str, NDArray[np.float32]]]
"""Runs an ONNX model, given as bytes, on images: its floating-point outputs of the names given, in their order."""


@dataclass(frozen=True)
class NodeTime:
    """Times of a node of an ONNX file in ms, in all rounds one after the other. ``name`` may list fused nodes, too."""

    name: str
    operator: str
    ms: tuple[float, ...]


NodeTimes = Callable[[Path, Mapping[str, NDArray[Any]], int, int], list[NodeTime]]
"""Runs an ONNX file with inputs by name so many rounds on so many threads: the time of each of its nodes."""

FORMATS = ("module", ".onnx", ".pt2", ".pte", ".engine")
"""What runtimes open: modules of PyTorch, and files by their suffix."""


@dataclass(frozen=True)
class Runtime:
    """A runtime: the models that it takes, whether it runs here, and how it opens one.

    Our own are in ``runners.choose.RUNTIMES``. A package of anyone's adds one by an entry point of the group
    ``slimsight.runtimes`` that names such an object; it then takes part in parity, in INT8 proofs and in ``bench``.

    Args:
        name: e.g. ``onnxruntime-cpu``; users write it, with ``:DEVICE`` behind it where ``device`` is given.
        formats: of ``FORMATS``, those that it opens.
        open: makes a closed runner from such a module or path, a device (None where ``device`` is None) and a number
            of CPU threads.
        available: the reason why the runtime cannot run on this machine; None where it can.
        precision_readback: opens an ONNX file and says what each of its layers runs in; None: it cannot be read.
        layer_values: computes the values of layers, so that a parity that fails names the first one that differs; None:
            they cannot be read.
        node_times: times the nodes of an ONNX file; None: it cannot, and budgets of latency are not planned for it.
        packages: distributions that it comes with, the first one installed says its version.
        device: the device where the user names none; None: the runtime takes no names of devices.
        refuses: why INT8 files of a form must not be run by it; None where they may.
        proves_int8: whether INT8 files are proven in it.
        proves_routed: whether files with branches are compared in it.

    Raises:
        ValueError: the name or a format is none.
    """

    name: str
    formats: tuple[str, ...]
    open: Callable[[Any, str | None, int], Runner]
    available: Callable[[], str | None] = lambda: None
    precision_readback: Callable[[Path], LayersRun] | None = None
    layer_values: LayerValues | None = None
    node_times: NodeTimes | None = None
    packages: tuple[str, ...] = ()
    device: str | None = None
    refuses: Callable[[Form | None], str | None] = lambda _form: None
    proves_int8: bool = True
    proves_routed: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a runtime is called '{self.name}': give lower-case letters, digits, '.', '-' and '_'")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            given = ", ".join(self.formats) or "nothing"
            raise ValueError(f"runtime {self.name} takes {given}: give some of {', '.join(FORMATS)}")

    @property
    def version(self) -> str:
        """Name and version of the distribution that it comes with, e.g. ``openvino 2026.4.1``; "" where not known."""
        for package in self.packages:
            try:
                return f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                continue
        return ""


def to_input(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images (N, 3, H, W) as float32 in [0, 1], the input of runners; uint8 is divided by 255.

    Raises:
        ExportError: neither uint8 nor floating point.
    """
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images, dtype=np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise ExportError(f"images are {images.dtype}: give uint8 (0 to 255) or floating point (0 to 1)")
    return np.ascontiguousarray(images, dtype=np.float32)


def refuse_not_finite(images: NDArray[Any], name: str) -> None:
    """Refuse images (N, 3, H, W) with NaN or infinity, whose logits would mean nothing.

    Raises:
        ExportError: some have; the message says how many, and which is the first.
    """
    finite = np.isfinite(images)
    if finite.all():
        return
    bad = np.flatnonzero(~finite.reshape(len(images), -1).all(1))
    raise ExportError(
        f"{name} was given NaN or infinity in {len(bad)} of {len(images)} images, the first of them image "
        f"{bad[0]}: repair or leave out these images"
    )


class BaseRunner(ABC):
    """Base of all runners: checks images and turns a runtime's failures into ExportError; subclasses do the work.

    A subclass implements ``_open``, ``_run`` and ``_close``. ``device_ms``: ms that the last call computed on its GPU,
    without copies to and from it; None on a CPU, where the wall-clock time of the call says the same.
    """

    def __init__(self, name: str, runtime: str, precision: str) -> None:
        self.name = name
        self.runtime = runtime
        self.precision = precision
        self.device_ms: float | None = None
        self._is_open = False
        self._runtime_errors: tuple[type[Exception], ...] = (MemoryError, RuntimeError)  # what _run raises
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
                or infinity, or the runtime fails (out of memory, for example).
        """
        if not self._is_open:
            raise ExportError(f"{self.name} is not open: call run() inside 'with runner:'")
        self._check_images(images)
        try:
            return self._run(images)
        except self._runtime_errors as error:
            raise self._to_export_error(error, images) from error

    def _check_images(self, images: NDArray[np.float32]) -> None:
        if images.dtype != np.float32 or images.ndim != 4 or len(images) == 0:
            raise ExportError(f"images are {images.dtype} {images.shape}: give float32 (N, 3, H, W), N >= 1")
        given, wanted = images.shape[1:], self._image_shape
        transposed = (given[2], given[0], given[1])
        if wanted is None:
            channels_last = given[2] in _COLOUR_CHANNELS and given[0] not in _COLOUR_CHANNELS
        else:
            channels_last = transposed == wanted
        if channels_last and given != wanted:
            raise ExportError(
                f"{self.name} was given images of {given}, channels last (NHWC): it takes channels first, "
                f"{transposed}; transpose them, images.transpose(0, 3, 1, 2)"
            )
        if wanted is not None and given != wanted:
            raise ExportError(f"{self.name} takes images of {wanted}, not {given}: resize them")
        refuse_not_finite(images, self.name)

    def _to_export_error(self, error: Exception, images: NDArray[np.float32]) -> ExportError:
        size = "x".join(map(str, images.shape[1:]))
        given = f"{len(images)} images of {size}" if len(images) > 1 else f"an image of {size}"
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
            remedy = "give smaller batches" if len(images) > 1 else "free some memory, or take a larger device"
            return ExportError(f"{self.name} ran out of memory in {self.runtime} with {given} in one call: {remedy}")
        return ExportError(f"{self.name} failed in {self.runtime} on {given} ({first_error_line(error)})")

    @abstractmethod
    def _open(self) -> None:
        """Load the model and allocate what ``_run`` needs; release all of it on failure."""

    @abstractmethod
    def _close(self) -> None:
        """Release what ``_open`` allocated."""

    @abstractmethod
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of checked images; on a GPU also set ``device_ms``."""
