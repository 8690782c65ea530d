"""ONNX Runtime's module, imported on first use; without torch."""

from __future__ import annotations

import importlib
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
        raise _broken(error) from error
    # A wheel for another Python or system, half of a package, or a library that it needs and is not there.
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError, SyntaxError) as error:
        raise _broken(error) from error
    return ort


_INSTALL = "pip install onnxruntime-gpu (Linux x86-64) or onnxruntime (elsewhere)"


def _broken(error: Exception) -> RuntimeMissing:
    return RuntimeMissing(
        f"ONNX Runtime is installed and cannot be imported ({type(error).__name__}: {first_error_line(error)}): remove "
        f"what is there (pip uninstall onnxruntime onnxruntime-gpu), then {_INSTALL}"
    )
