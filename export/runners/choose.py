"""The registry of runtimes: which there are, which of them can run here, and a runner of each by its name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import nn

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.registry import nearest

from . import in_executorch, in_onnxruntime, in_openvino, in_tensorrt, in_torch
from .base import Runner, Runtime
from .plug_in import load_plug_ins

_MODULES = (in_torch, in_onnxruntime, in_openvino, in_executorch, in_tensorrt)

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for module in _MODULES for runtime in module.RUNTIMES}
"""Our own runtimes by name. To add one: a file beside these with a runner and its ``RUNTIMES``, listed above."""


@cache
def plug_ins() -> dict[str, Runtime]:
    """The runtimes of other packages by name."""
    return load_plug_ins(RUNTIMES)


def all_runtimes() -> dict[str, Runtime]:
    """Every runtime by its name: our own, then those of other packages (``plug_in``)."""
    return RUNTIMES | plug_ins()


def find_runtime(name: str) -> tuple[Runtime, str | None]:
    """A runtime and the device to open it on, by ``NAME`` or ``NAME:DEVICE``.

    Raises:
        ConfigError: there is none of this name (the message lists the names), or it takes no device.
    """
    wanted, colon, device = name.partition(":")
    known = all_runtimes()
    if wanted not in known:
        choices = list(known)
        raise ConfigError(f"unknown runtime '{name}'{nearest(wanted, choices)} (choose from: {', '.join(choices)})")
    runtime = known[wanted]
    if not colon:
        return runtime, runtime.device
    if runtime.device is None:
        raise ConfigError(f"runtime '{name}' names a device, and {wanted} takes none: write {wanted}")
    if not device:
        raise ConfigError(f"runtime '{name}' names no device: write {wanted}, or {wanted}:{runtime.device}")
    return runtime, device


def check_runtime(name: str) -> None:
    """Raises ConfigError as ``find_runtime`` does."""
    find_runtime(name)


def why_unavailable() -> dict[str, str | None]:
    """The reason why each runtime cannot run on this machine; None where it can."""
    return {name: runtime.available() for name, runtime in all_runtimes().items()}


def runtimes_for(suffix: str) -> list[Runtime]:
    """The runtimes that open files of a suffix, available or not."""
    return [runtime for runtime in all_runtimes().values() if suffix in runtime.formats]


def open_runner(model: Path | nn.Module, runtime: str, threads: int = 1) -> Runner:
    """A runner, still closed, of ``model`` in ``runtime``.

    Args:
        model: a module for ``torch`` and ``torch-compile`` (it runs where its parameters are), a file for the others.
        runtime: its name, with ``:DEVICE`` where it takes one.
        threads: CPU threads of the runtime.

    Raises:
        ConfigError: there is no such runtime, or it takes something else than ``model``.
        ExportError: the runtime cannot run on this machine.
    """
    chosen, device = find_runtime(runtime)
    given = "module" if isinstance(model, nn.Module) else model.suffix
    if given not in chosen.formats:
        shown = type(model).__name__ if isinstance(model, nn.Module) else model.name
        wanted = " or ".join(f"{item} file" if item != "module" else item for item in chosen.formats)
        raise ConfigError(f"{runtime} takes a {wanted}, not {shown}")
    if (reason := chosen.available()) is not None:
        raise ExportError(f"{runtime} cannot run here: {reason}")
    return chosen.open(model, device, threads)
