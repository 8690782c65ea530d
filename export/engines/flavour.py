"""The two TensorRT runtimes (``tensorrt``, ``tensorrt-rtx``), and the GPU and driver of this machine."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from slimsight.compress.errors import ExportError, RuntimeMissing

Flavour = Literal["tensorrt", "tensorrt-rtx"]

PACKAGES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
FLAVOUR_NAMES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
"""Import names of the runtimes, and their names in messages."""


@dataclass(frozen=True)
class Machine:
    """The GPU and driver that an engine is built for; ``none`` in all fields on a machine without a CUDA device.

    ``gpu``: its name; ``capability``: compute capability (``8.9``); ``driver``: CUDA version that the driver supports.
    """

    gpu: str = "none"
    capability: str = "none"
    driver: str = "none"

    @property
    def has_gpu(self) -> bool:
        """Whether there is a CUDA device."""
        return self.gpu != "none"

    def to_dict(self) -> dict[str, str]:
        """Its fields by name, for JSON."""
        return asdict(self)


def this_machine() -> Machine:
    """The first CUDA device and its driver."""
    if not torch.cuda.is_available():
        return Machine()
    major, minor = torch.cuda.get_device_capability(0)
    return Machine(torch.cuda.get_device_name(0), f"{major}.{minor}", _driver_version())


def _driver_version() -> str:
    """The CUDA version that the driver supports, e.g. ``13.0``, from the driver's own library."""
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        raise ExportError("the CUDA driver does not report its version: reinstall the NVIDIA driver")
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def import_runtime(flavour: Flavour) -> Any:
    """The Python module of a flavour.

    Raises:
        ExportError: the flavour is unknown.
        RuntimeMissing: its runtime is not installed.
    """
    if flavour not in PACKAGES:
        raise ExportError(f"'{flavour}' is not a TensorRT flavour: choose from {', '.join(get_args(Flavour))}")
    try:
        return importlib.import_module(PACKAGES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of the package that does not load
        raise RuntimeMissing(
            f"{FLAVOUR_NAMES[flavour]} is missing ({type(error).__name__}: {error}): pip install 'slimsight[{flavour}]'"
        ) from error


def keeping_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps all messages as (severity, text) in ``messages``, and prints none."""

    # A builder in a reference cycle must not be collected while another one logs: TensorRT's lock would deadlock.
    gc.collect()

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]  # the base class exists only once the runtime is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((int(severity), text))

        def errors(self) -> list[str]:
            """Messages of severity ERROR or worse, in order."""
            error = int(trt.ILogger.ERROR)
            return [text for severity, text in self.messages if severity <= error]

    return KeepingLogger()
