"""The package executorch, imported on first use with its messages kept off the terminal, and opening its files."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError, RuntimeMissing, first_error_line

from ..pt2.export import silence_output

INSTALL_EXECUTORCH: Final = "pip install 'slimsight[executorch]'"
_STDERR: Final = 2
_RANK: Final = 4
_HALF_INSTALLED: Final = (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError, SyntaxError)


def why_no_executorch() -> str | None:
    """Why ExecuTorch does not run here; None where it is installed."""
    return None if find_spec("executorch") is not None else f"ExecuTorch is not installed: {INSTALL_EXECUTORCH}"


@contextmanager
def quiet_executorch() -> Iterator[None]:
    """Context without its messages: those of Python, and those that its C++ writes to the descriptor of stderr."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # stderr is closed: nobody would read them
        with silence_output():
            yield
        return
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, _STDERR)
    try:
        with silence_output():
            yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nothing)


def import_executorch(module: str) -> Any:
    """A module of executorch, such as ``executorch.runtime``.

    Raises:
        RuntimeMissing: it is not installed, or is of another torch.
    """
    if (missing := why_no_executorch()) is not None:
        raise RuntimeMissing(missing)
    environment = dict(os.environ)  # it sets paths of delegates that are not used here
    try:
        with quiet_executorch():
            return importlib.import_module(module)
    except _HALF_INSTALLED as error:
        raise RuntimeMissing(
            f"ExecuTorch is installed and cannot be imported ({type(error).__name__}: {first_error_line(error)}): it "
            f"fits one version of torch; pip uninstall executorch, then {INSTALL_EXECUTORCH}"
        ) from error
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]


@dataclass(frozen=True)
class LoadedPte:
    """The method ``forward`` of a ``.pte`` file, and the largest input (batch, 3, H, W) that it is planned for."""

    program: Any
    method: Any
    sizes: tuple[int, ...]


def load_pte(path: Path) -> LoadedPte:
    """Open a ``.pte`` file.

    Raises:
        RuntimeMissing: ExecuTorch is missing.
        ExportError: the file is missing or cut off, or takes no images.
    """
    runtime = import_executorch("executorch.runtime").Runtime
    if not path.is_file():
        raise ExportError(f"there is no {path}: export the model to executorch first")
    try:
        with quiet_executorch():
            program = runtime.get().load_program(str(path))
            method = program.load_method("forward")
            tensor = None if method is None else method.metadata.input_tensor_meta(0)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ExportError(
            f"{path} is not a .pte that ExecuTorch opens ({first_error_line(error)}): export it again"
        ) from error
    sizes = () if tensor is None else tuple(tensor.sizes())
    if len(sizes) != _RANK:
        raise ExportError(f"{path} takes a tensor of sizes {sizes}: images (batch, 3, H, W) are needed")
    return LoadedPte(program, method, sizes)
