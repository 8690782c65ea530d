"""Files of the user's that a model's file and its factory read while they build the network: settings, tables, weights.

Python reports every file that is opened, and every library that ctypes loads, to audit hooks (PEP 578); safetensors
opens files by itself and is asked. What other libraries open by themselves (cv2.imread, sqlite3, h5py) is not seen, nor
what other processes read: ``model.files`` of a recipe names such files.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from .user_imports import is_installed

_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_WRITING = os.O_WRONLY | os.O_RDWR


class OpenedFiles:
    """Paths that were opened in one thread: to be read, and to be written too; ``relative``: not given in full."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._read: dict[str, bool] = {}
        self._written: set[str] = set()

    def add(self, given: object, flags: object = os.O_RDONLY) -> None:
        """Note that ``given`` was opened; what is no path (a descriptor) is not."""
        if threading.get_ident() != self._thread or not isinstance(given, str | bytes | os.PathLike):
            return
        path = os.fsdecode(given)
        place = os.path.abspath(path)  # noqa: PTH100 - a Path would be made for every file that Python opens
        if isinstance(flags, int) and flags & _WRITING:
            self._written.add(place)
        else:
            self._read[place] = self._read.get(place, False) or not os.path.isabs(path)  # noqa: PTH117 - as above

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Context: notes the files that this thread opens in it."""
        import safetensors
        import safetensors.torch

        _install_hook()
        libraries: tuple[Any, ...] = (safetensors, safetensors.torch)
        own = safetensors.safe_open
        for library in libraries:
            library.safe_open = partial(_noted, own)
        _watching.append(self)
        try:
            yield
        finally:
            _watching.remove(self)
            for library in libraries:
                library.safe_open = own

    def of_user(self, model_file: Path) -> list[Path]:
        """The files that were only read, and are the user's: in the project of ``model_file``, or given relative.

        Modules that were imported are left out, as are hidden and installed files.
        """
        project = _project(model_file.parent)
        found = set()
        for place, relative in self._read.items():
            path = Path(place).resolve()
            if place in self._written or not path.is_file() or is_installed(path):
                continue
            if path.is_relative_to(project):
                parts = path.relative_to(project).parts
            elif relative:
                parts = path.parts
            else:
                continue
            if not any(part.startswith(".") or part == "__pycache__" for part in parts):
                found.add(path)
        return sorted(found - _imported_files()) if found else []


def _project(folder: Path) -> Path:
    """The folder of the project: ``folder``, or the nearest above it with one of ``_PROJECT_FILES``."""
    for place in (folder, *folder.parents):
        if any((place / name).exists() for name in _PROJECT_FILES):
            return place
    return folder


def _imported_files() -> set[Path]:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {Path(file).resolve() for file in files if isinstance(file, str)}


_watching: list[OpenedFiles] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        _watching[-1].add(arguments[0], arguments[2])
    elif event == "ctypes.dlopen":
        _watching[-1].add(arguments[0])


@cache
def _install_hook() -> None:
    """Once: Python cannot remove a hook."""
    sys.addaudithook(_hook)


def _noted(safe_open: Callable[..., Any], filename: Any, *arguments: Any, **options: Any) -> Any:
    """``safetensors.safe_open``, and a note of the file: a model's module may keep this function."""
    if _watching:
        _watching[-1].add(filename)
    return safe_open(filename, *arguments, **options)
