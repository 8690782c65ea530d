"""Which runtimes there are, which of them can run here, and a runner of any of them by its name."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.registry import nearest

from .base import Runner
from .in_onnxruntime import OnnxRunner, import_onnxruntime
from .in_tensorrt import TensorRtRunner
from .in_torch import Pt2Runner, TorchRunner

Takes = Literal["module", ".pt2", ".onnx", ".engine"]

TAKES: dict[str, Takes] = {
    "torch": "module",
    "torch-compile": "module",
    "pt2": ".pt2",
    "onnxruntime-cpu": ".onnx",
    "onnxruntime-cuda": ".onnx",
    "onnxruntime-tensorrt": ".onnx",
    "tensorrt": ".engine",
    "tensorrt-rtx": ".engine",
}
"""What each runtime takes: a module, or a file by its suffix."""

_PROVIDERS = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}
_NO_DEVICE = "no CUDA device is available on this machine"


def check_runtime(name: str) -> None:
    """Raises ConfigError where there is no runtime ``name``."""
    if name not in TAKES:
        raise ConfigError(f"unknown runtime '{name}'{nearest(name, list(TAKES))} (choose from: {', '.join(TAKES)})")


def runtimes() -> dict[str, str | None]:
    """Every runtime, and the reason why it cannot run on this machine; None where it can."""
    checks: dict[str, Callable[[], str | None]] = {
        "torch": lambda: None,
        "torch-compile": _compiler,
        "pt2": lambda: None,
        **{name: partial(_onnxruntime, name) for name in _PROVIDERS},
        "tensorrt": partial(_tensorrt, "tensorrt", "tensorrt"),
        "tensorrt-rtx": partial(_tensorrt, "tensorrt-rtx", "tensorrt_rtx"),
    }
    return {name: checks[name]() for name in TAKES}


def open_runner(model: Path | nn.Module, runtime: str, threads: int = 1) -> Runner:
    """A runner, still closed, of ``model`` in ``runtime``.

    Args:
        model: a module for ``torch`` and ``torch-compile`` (it runs where its parameters are), a file for the others.
        threads: of the host.

    Raises:
        ConfigError: there is no such runtime, or it takes something else than ``model``.
        ExportError: the runtime cannot run on this machine.
    """
    check_runtime(runtime)
    takes = TAKES[runtime]
    given = "module" if isinstance(model, nn.Module) else model.suffix
    if given != takes:
        shown = type(model).__name__ if isinstance(model, nn.Module) else model.name
        raise ConfigError(f"{runtime} takes a {takes}{' file' if takes != 'module' else ''}, not {shown}")
    if (reason := runtimes()[runtime]) is not None:
        raise ExportError(f"{runtime} cannot run here: {reason}")
    if isinstance(model, nn.Module):
        if runtime == "torch":
            return TorchRunner(model, threads)
        compiled = _compiled_runner()
        assert compiled is not None
        runner: Runner = compiled(model, threads)
        return runner
    if takes == ".pt2":
        return Pt2Runner(model, threads)
    if takes == ".onnx":
        return OnnxRunner(model, threads, provider=_PROVIDERS[runtime])
    return TensorRtRunner(model, "tensorrt-rtx" if runtime == "tensorrt-rtx" else "tensorrt")


def _compiled_runner() -> Any | None:
    """The class that runs compiled modules, where this version has one."""
    return getattr(importlib.import_module(".in_torch", __package__), "CompiledRunner", None)


def _compiler() -> str | None:
    """torch.compile writes C++ for the CPU, and needs what builds it."""
    if _compiled_runner() is None:
        return "this version has no runner for compiled modules"
    if any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name):
        return None
    return "torch.compile needs a C++ compiler: install g++"


def _onnxruntime(name: str) -> str | None:
    try:
        ort = import_onnxruntime()
    except ExportError as error:
        return str(error)
    if _PROVIDERS[name] not in ort.get_available_providers():
        return f"this ONNX Runtime has no {_PROVIDERS[name]}: pip install onnxruntime-gpu"
    return None if name == "onnxruntime-cpu" or torch.cuda.is_available() else _NO_DEVICE


def _tensorrt(flavour: str, package: str) -> str | None:
    if find_spec(package) is None:
        return f"{package} is not installed: pip install 'slimsight[{flavour}]'"
    return None if torch.cuda.is_available() else _NO_DEVICE
