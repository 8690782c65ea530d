"""Loading networks from users' Python files, with errors in their code reported as one sentence with the line."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from types import ModuleType, TracebackType

import torch
from torch import nn

from ..errors import ConfigError, ModelError, SlimError
from .factory import call_factory, find_factory
from .user_imports import user_files
from .user_modules import builtins_for, forget, package_of, project_modules, sha256_of
from .user_reads import OpenedFiles

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS, _NETWORKS = str(Path(__file__).parents[2]) + os.sep, str(Path(__file__).with_name("cifar.py"))


def build_from_file(name: str, classes: int) -> nn.Module:
    """The network of ``path/to/file.py:factory``: with the number of classes where it takes that (``call_factory``).

    The file is executed again only when its content, or that of a file of the user's that it imports or reads, has
    changed. It may import modules of its folder, and of the package that it is in, absolutely or relatively
    (``project_modules``).

    Raises:
        ConfigError: no such file or factory, or a factory with other arguments.
        ModelError: the file or the factory raises, or the result is not a ``torch.nn.Module``.
    """
    path, factory_name = split_file_name(name)
    if not path.is_file():
        raise ConfigError(f"model '{name}': there is no file {path}; give path/to/file.py:factory")
    source, opened = _read_source(path), OpenedFiles()
    with project_modules(path, source):
        before = set(sys.modules)
        module = _load_module(path, source, opened)
        factory = find_factory(module, path, factory_name)
        call = call_factory(factory, factory_name, path, classes)
        with opened.watched(), UserCode(f"model factory '{factory_name}' of {path} failed", path):
            net = call()
        _remember_files(module, path, sys.modules.keys() - before, opened)
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"model factory '{factory_name}' of {path} returned {type(net).__name__}; "
            "it must return a torch.nn.Module that maps images (N, 3, H, W) to logits (N, classes)"
        )
    return net


def needed_files(name: str, classes: int) -> dict[str, tuple[Path, str | None]]:
    """Path and sha256 of each file of the user's that ``path/to/file.py:factory`` imports or reads.

    By module name, or by path relative to the file's folder. Builds the network: what a factory needs is known only
    then.

    Raises:
        ConfigError, ModelError: as ``build_from_file``.
    """
    build_from_file(name, classes)
    path, _ = split_file_name(name)
    return dict(_needed[_module_name(path, _read_source(path))])


def is_file_name(name: str) -> bool:
    """Whether a model ``name`` refers to a Python file: ``file.py:factory``, or ``file.py`` without a factory."""
    return name.endswith(".py") or ".py:" in name


def split_file_name(name: str) -> tuple[Path, str]:
    """The absolute path of the file in ``name``, and its factory (empty if none is given)."""
    file, _, factory = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return Path(file).expanduser().resolve(), factory


class UserCode:
    """Context: turns an exception into a ModelError "``doing``: type: message (file, line n)".

    The line is the deepest in ``file``; without one, the deepest outside torch, if the model has one. Interrupts pass.
    """

    def __init__(self, doing: str, file: Path | None = None) -> None:
        self.doing = doing
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # sys.exit() in an imported script must not end our process silently.
        if isinstance(error, SlimError) or not isinstance(error, Exception | SystemExit):
            return
        text = " ".join(str(error).split())
        place = _line_of_error(error, trace, self.file)
        line = f" ({place})" if place else ""
        if isinstance(error, ImportError) and self.file is None:  # raised while the network runs
            doing, remedy = "the model imports while it runs", "; import it at the top of the model's file"
        else:
            doing, remedy = self.doing, ""
        described = f"{type(error).__name__}{f': {text}' if text else ''}"
        raise ModelError(f"{doing}: {described}{line}{remedy}") from error


def calling_line() -> str:
    """The innermost line of the current call stack outside torch and this package."""
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith((_TORCH, _OURS))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}"


def _line_of_error(error: BaseException, trace: TracebackType | None, file: Path | None) -> str:
    """Where ``error`` arose; empty for a network that consists of torch's layers alone."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(trace)
    if file is None:
        candidates = [frame for frame in frames if _of_model(frame.filename)]
    else:
        candidates = [frame for frame in frames if frame.filename == str(file)]
        candidates = candidates or list(frames)
    return f"{candidates[-1].filename}, line {candidates[-1].lineno}" if candidates else ""


def _of_model(file: str) -> bool:
    """Whether a line of ``file`` may be a model's: not torch's, nor of the modes that watch each of its operators."""
    return not file.startswith(_TORCH) and (file == _NETWORKS or not file.startswith(_OURS))


def _load_module(path: Path, source: bytes, opened: OpenedFiles) -> ModuleType:
    """The module of ``path``, cached by content, so that its classes are the same until the file changes.

    ``opened``: gets the files that it opens.
    """
    module_name = _module_name(path, source)
    _forget_changed(module_name)
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    if package := package_of(path, source):
        module.__package__, module.__spec__ = package, None  # the spec states the package that its name is in: none
    if (own := builtins_for(path, source)) is not None:
        module.__dict__["__builtins__"] = own
    sys.modules[module_name] = module  # dataclasses and pickles look up their module while it is executed
    try:
        with opened.watched(), UserCode(f"model file {path} cannot be imported", path):
            # Compiled here, because the loader's bytecode cache would litter the user's folder and, comparing times
            # in seconds, miss an edit within the same second.
            exec(compile(source, str(path), "exec"), module.__dict__)
    except ModelError:
        del sys.modules[module_name]
        raise
    return module


def _read_source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read model file {path}: {error.strerror}") from error


def _module_name(path: Path, source: bytes) -> str:
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + source).hexdigest()[:16]
    return f"_slimsight_model_{path.stem}_{digest}"


_needed: dict[str, dict[str, tuple[Path, str | None]]] = {}
"""Files of the user's that a model's module has imported or read, with their sha256, by the module's name."""


def _remember_files(module: ModuleType, path: Path, added: Collection[str], opened: OpenedFiles) -> None:
    """Record what the ``module`` of ``path`` needs; ``added`` are names new in ``sys.modules`` since it was loaded."""
    mine = [name for name in added if name != module.__name__]
    first = module.__name__ not in _needed
    known = _needed.setdefault(module.__name__, {})
    files = user_files(module, mine) if first or mine else {}
    read = {Path(os.path.relpath(file, path.parent)).as_posix(): file for file in opened.of_user(path) if file != path}
    for name, file in {**files, **read}.items():
        if name not in known:
            known[name] = (file, sha256_of(file))


def _forget_changed(module_name: str) -> None:
    """Drop a model's module and all that it has imported if a file that it needs is no longer what it was."""
    known = _needed.get(module_name, {})
    if all(sha256_of(file) == digest for file, digest in known.values()):
        return
    forget([module_name, *known])
    del _needed[module_name]
    importlib.invalidate_caches()
