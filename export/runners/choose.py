"""The registry of runtimes: which there are, which of them can run here, and a runner of each by its name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.registry import nearest

from . import in_onnxruntime, in_tensorrt, in_torch
from .base import Runner, Runtime

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for module in (in_torch, in_onnxruntime, in_tensorrt) for runtime in module.RUNTIMES
}
"""Every runtime by its name. To add one: a file beside these with a runner and its ``RUNTIMES``, listed above."""


def check_runtime(name: str) -> None:
    """Raises ConfigError where there is no runtime ``name``; the message lists the names."""
    if name not in RUNTIMES:
        choices = list(RUNTIMES)
        raise ConfigError(f"unknown runtime '{name}'{nearest(name, choices)} (choose from: {', '.join(choices)})")


def why_unavailable() -> dict[str, str | None]:
    """The reason why each runtime cannot run on this machine; None where it can."""
    return {name: runtime.why_unavailable() for name, runtime in RUNTIMES.items()}


def open_runner(model: Path | nn.Module, runtime: str, threads: int = 1) -> Runner:
    """A runner, still closed, of ``model`` in ``runtime``.

    Args:
        model: a module for ``torch`` and ``torch-compile`` (it runs where its parameters are), a file for the others.
        threads: CPU threads of the runtime.

    Raises:
        ConfigError: there is no such runtime, or it takes something else than ``model``.
        ExportError: the runtime cannot run on this machine.
    """
    check_runtime(runtime)
    chosen = RUNTIMES[runtime]
    given = "module" if isinstance(model, nn.Module) else model.suffix
    if given != chosen.takes:
        shown = type(model).__name__ if isinstance(model, nn.Module) else model.name
        raise ConfigError(f"{runtime} takes a {chosen.takes}{' file' if chosen.takes != 'module' else ''}, not {shown}")
    if (reason := chosen.why_unavailable()) is not None:
        raise ExportError(f"{runtime} cannot run here: {reason}")
    return chosen.runner(model, threads)
