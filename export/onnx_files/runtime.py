"""The modules of ONNX Runtime and OpenVINO, imported on first use; without torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from slimsight.compress.errors import RuntimeMissing, first_error_line

from .graph import runtime_errors


def import_onnxruntime() -> Any:
    """The onnxruntime module, with its own logging off.

    Raises:
        RuntimeMissing: it is not installed, or only in part.
    """
    try:
        ort = importlib.import_module("onnxruntime")
        # Fatal only: failures also come as exceptions, and a machine without a GPU would warn about it.
        ort.set_default_logger_severity(4)
        runtime_errors()
    except ModuleNotFoundError as error:
        if error.name == "onnxruntime":
            raise RuntimeMissing(f"ONNX Runtime is missing: {_INSTALL}") from error
        raise _broken("ONNX Runtime", "onnxruntime onnxruntime-gpu", _INSTALL, error) from error
    # A wheel for another Python or system, half of a package, or a library that it needs and is not there.
    except _HALF_INSTALLED as error:
        raise _broken("ONNX Runtime", "onnxruntime onnxruntime-gpu", _INSTALL, error) from error
    return ort


def import_openvino() -> Any:
    """The openvino module, imported without its telemetry.

    On import it would write an identity to the home folder and report its use to its maker, if nobody told it not to.

    Raises:
        RuntimeMissing: it is not installed, or only in part.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to make an import fail
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name == "openvino":
            raise RuntimeMissing(f"OpenVINO is not installed: {INSTALL_OPENVINO}") from error
        raise _broken("OpenVINO", "openvino", INSTALL_OPENVINO, error) from error
    except _HALF_INSTALLED as error:
        raise _broken("OpenVINO", "openvino", INSTALL_OPENVINO, error) from error
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


INSTALL_OPENVINO = "pip install 'slimsight[openvino]'"
_INSTALL = "pip install onnxruntime-gpu (Linux x86-64) or onnxruntime (elsewhere)"
_TELEMETRY = "openvino_telemetry"
_HALF_INSTALLED = (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError, SyntaxError)


def _broken(name: str, packages: str, install: str, error: Exception) -> RuntimeMissing:
    return RuntimeMissing(
        f"{name} is installed and cannot be imported ({type(error).__name__}: {first_error_line(error)}): remove what "
        f"is there (pip uninstall {packages}), then {install}"
    )
