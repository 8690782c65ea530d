"""The two TensorRT runtimes behind one API, and the machine they run on."""

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

_MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
NAMES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class Machine:
    """What decides whether an engine runs here: ``none`` in every field on a machine without a CUDA device.

    ``gpu`` is its name, ``capability`` its compute capability (``8.9``), ``driver`` the CUDA version of its driver.
    """

    gpu: str = "none"
    capability: str = "none"
    driver: str = "none"

    @property
    def has_gpu(self) -> bool:
        """Whether there is a CUDA device."""
        return self.gpu != "none"

    def to_dict(self) -> dict[str, str]:
        """Its fields by name."""
        return asdict(self)


def this_machine() -> Machine:
    """The first CUDA device and its driver."""
    if not torch.cuda.is_available():
        return Machine()
    major, minor = torch.cuda.get_device_capability(0)
    return Machine(torch.cuda.get_device_name(0), f"{major}.{minor}", _driver())


def _driver() -> str:
    """The CUDA version that the driver supports, e.g. ``13.0``; by the driver's own library."""
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        raise ExportError("the CUDA driver does not say its version: reinstall the NVIDIA driver")
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def import_runtime(flavour: Flavour) -> Any:
    """The Python module of a flavour.

    Raises:
        ExportError: the flavour is unknown.
        RuntimeMissing: its runtime is not installed.
    """
    if flavour not in _MODULES:
        raise ExportError(f"'{flavour}' is no TensorRT flavour: choose from {', '.join(get_args(Flavour))}")
    try:
        return importlib.import_module(_MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of the package that does not load
        raise RuntimeMissing(
            f"{NAMES[flavour]} is missing ({type(error).__name__}: {error}): pip install 'slimsight[{flavour}]'"
        ) from error


def to_logger(trt: Any) -> Any:
    """A logger that keeps all messages as (severity, text) in its ``messages``, and prints none."""

    # A builder in a cycle must not be collected while another logs: both would want TensorRT's lock, and wait for ever.
    gc.collect()

    class Kept(trt.ILogger):  # type: ignore[misc]  # the base class exists only once the runtime is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((int(severity), text))

        def errors(self) -> list[str]:
            """What the runtime reported as an error, in order."""
            worst = int(trt.ILogger.ERROR)
            return [text for severity, text in self.messages if severity <= worst]

    return Kept()
