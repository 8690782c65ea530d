"""Runtimes of other packages, by entry points; nothing that one of them raises stops the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import RuntimeMissing, SlimError, Unsupported, first_error_line

from .base import BaseRunner, Runner, Runtime

GROUP = "slimsight.runtimes"
"""The entry points by which other packages add runtimes; each names a ``Runtime``."""


def load_plug_ins(taken: Collection[str]) -> dict[str, Runtime]:
    """The runtimes of other packages by name; one that cannot be loaded is there too, unavailable, with the reason.

    Args:
        taken: names that they must not have.
    """
    found: dict[str, Runtime] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        runtime = _load(entry)
        if runtime.name in taken or runtime.name in found:
            runtime = _unusable(entry, f"a runtime is called '{runtime.name}' already", {*taken, *found})
        found[runtime.name] = runtime
    return found


def _load(entry: EntryPoint) -> Runtime:
    try:
        runtime = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything: that is the finding
        return _unusable(entry, f"{type(error).__name__}: {first_error_line(error)}")
    if not isinstance(runtime, Runtime):
        return _unusable(entry, f"{entry.value} is a {type(runtime).__name__}, and not a slimsight Runtime")

    return replace(
        runtime,
        open=lambda model, device, threads: PlugInRunner(runtime, model, device, threads),
        available=lambda: _availability(runtime),
    )


def _availability(runtime: Runtime) -> str | None:
    try:
        return runtime.available()
    except Exception as error:  # noqa: BLE001 - as above
        return f"it cannot say whether it runs here ({type(error).__name__}: {first_error_line(error)})"


def _unusable(entry: EntryPoint, reason: str, taken: Collection[str] = ()) -> Runtime:
    """A runtime that says why the plug-in of an entry point cannot be used."""
    package = entry.dist.name if entry.dist is not None else entry.value
    sentence = f"the plug-in '{entry.name}' of {package} cannot be loaded ({reason}): update or uninstall {package}"
    name = "".join(char if char.isascii() and char.isalnum() else "-" for char in entry.name.lower()).strip("-") or "x"
    if name in taken:
        name = f"{name}-of-{len(taken)}"

    def refuse(_model: Any, _device: str | None, _threads: int) -> Runner:
        raise RuntimeMissing(sentence)

    return Runtime(name, (".onnx",), refuse, lambda: sentence)


class PlugInRunner(BaseRunner):
    """The runner of a plug-in, with our checks of images and logits around it; its failures become ExportErrors.

    Args:
        runtime: as the plug-in gives it.
        model, device, threads: what its ``open`` is given.

    Raises:
        RuntimeMissing: on opening, when the plug-in does not run here.
        Unsupported: on opening, when it cannot open the model.
    """

    def __init__(self, runtime: Runtime, model: Any, device: str | None, threads: int) -> None:
        super().__init__(getattr(model, "name", type(model).__name__), runtime.name, "fp32")
        self._plug_in, self._given = runtime, (model, device, threads)
        self._inner: Runner | None = None
        self._runtime_errors = (Exception,)

    def _open(self) -> None:
        if (reason := _availability(self._plug_in)) is not None:
            raise RuntimeMissing(reason)
        try:
            inner = self._plug_in.open(*self._given)
            inner.__enter__()
        except SlimError:
            raise
        except Exception as error:  # code of others, of which no class of errors is known: one sentence, with its cause
            raise Unsupported(
                f"the plug-in {self._plug_in.name} cannot open {self.name} ({type(error).__name__}: "
                f"{first_error_line(error)}): run it in another runtime, or uninstall the plug-in"
            ) from error
        self._inner, self.runtime, self.precision = inner, inner.runtime, inner.precision

    def _close(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.__exit__(None, None, None)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._inner is not None
        logits = np.asarray(self._inner.run(images))
        self.device_ms = getattr(self._inner, "device_ms", None)
        if logits.ndim != 2 or len(logits) != len(images) or logits.dtype.kind != "f":
            raise ValueError(f"it gave {logits.dtype} {logits.shape}: logits (N, classes) in floating point are needed")
        return logits.astype(np.float32, copy=False)
