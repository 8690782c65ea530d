"""Loading networks from users' Python files, with errors in their code reported as one sentence with the line."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError, SlimError
from ..files.sealed import sha256_of_file
from ..registry import nearest
from .user_imports import user_files
from .user_reads import OpenedFiles

_TORCH = str(Path(torch.__file__).parent) + os.sep
CLASSES_NAMES = ("classes", "num_classes", "n_classes")
"""A factory's parameter of one of these names receives the number of classes."""


def build_from_file(name: str, classes: int) -> nn.Module:
    """The network of ``path/to/file.py:factory``: ``factory(classes)``, or ``factory()`` if it takes nothing.

    The file is executed again only when its content, or that of a file of the user's that it imports or reads, has
    changed. It may import modules of its folder.

    Raises:
        ConfigError: no such file or factory, or a factory with other arguments.
        ModelError: the file or the factory raises, or the result is not a ``torch.nn.Module``.
    """
    path, factory_name = split_file_name(name)
    if not path.is_file():
        raise ConfigError(f"model '{name}': there is no file {path}; give path/to/file.py:factory")
    opened = OpenedFiles()
    with _folder_on_sys_path(path):
        before = set(sys.modules)
        module = _load_module(path, opened)
        factory = _find_factory(module, path, factory_name)
        with opened.watched(), UserCode(f"model factory '{factory_name}' of {path} failed", path):
            net = factory(**_factory_arguments(factory, factory_name, path, classes))
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

    The line is the deepest in ``file``; without one, the deepest outside torch. Interrupts pass.
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
        line = _line_of_error(error, trace, self.file)
        if isinstance(error, ImportError) and self.file is None:  # raised while the network runs
            doing, remedy = "the model imports while it runs", "; import it at the top of the model's file"
        else:
            doing, remedy = self.doing, ""
        described = f"{type(error).__name__}{f': {text}' if text else ''}"
        raise ModelError(f"{doing}: {described} ({line}){remedy}") from error


def calling_line() -> str:
    """The innermost line of the current call stack outside torch and this package."""
    ours = str(Path(__file__).parents[1]) + os.sep
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith((_TORCH, ours))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}"


def _line_of_error(error: BaseException, trace: TracebackType | None, file: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(trace)
    if file is None:
        candidates = [frame for frame in frames if not frame.filename.startswith(_TORCH)]
    else:
        candidates = [frame for frame in frames if frame.filename == str(file)]
    frame = (candidates or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _load_module(path: Path, opened: OpenedFiles) -> ModuleType:
    """The module of ``path``, cached by content, so that its classes are the same until the file changes.

    ``opened``: gets the files that it opens.
    """
    source = _read_source(path)
    module_name = _module_name(path, source)
    _forget_changed(module_name)
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
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
            known[name] = (file, _sha256(file))


def _forget_changed(module_name: str) -> None:
    """Drop a model's module and all that it has imported if a file that it needs is no longer what it was."""
    known = _needed.get(module_name, {})
    if all(_sha256(file) == digest for file, digest in known.values()):
        return
    for name in (module_name, *known):
        sys.modules.pop(name, None)
    del _needed[module_name]
    importlib.invalidate_caches()


def _sha256(file: Path) -> str | None:
    """None where the file is gone."""
    return sha256_of_file(file) if file.is_file() else None


def _find_factory(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
    candidates = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    listed = f"it defines: {', '.join(candidates)}" if candidates else "it defines no function or class"
    factory = getattr(module, name, None) if name else None
    if factory is None:
        what = f"has no '{name}'{nearest(name, candidates)}" if name else "needs the name of a factory"
        raise ConfigError(f"model file {path} {what} ({listed}); give path/to/file.py:factory")
    if not callable(factory):
        raise ConfigError(f"'{name}' in model file {path} is a {type(factory).__name__}, not a factory ({listed})")
    return factory  # type: ignore[no-any-return]


def _factory_arguments(factory: Callable[..., Any], name: str, path: Path, classes: int) -> dict[str, int]:
    """Keyword arguments for ``factory``: the number of classes, or none."""
    parameters = inspect.signature(factory).parameters
    for key in CLASSES_NAMES:
        if key in parameters:
            return {key: classes}
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not required:
        return {}
    if len(required) == 1 and parameters[required[0]].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return {required[0]: classes}
    raise ConfigError(
        f"model factory '{name}' of {path} needs arguments ({', '.join(required)}); "
        "it may take only the number of classes, or nothing: wrap it in a function that supplies the rest"
    )


_imported_from: dict[str, set[str]] = {}
"""Names in ``sys.modules`` of what model files have imported from their own folders, by folder."""


@contextmanager
def _folder_on_sys_path(path: Path) -> Iterator[None]:
    """Context: puts the file's folder first on ``sys.path``, as when Python runs the file itself.

    A neighbour counts before one of the same name that a model file in another folder has imported: two versions of a
    project are two models.
    """
    folder = str(path.parent)
    for other, names in _imported_from.items():
        for name in names if other != folder else ():
            top = path.with_name(name.partition(".")[0])
            if top.is_dir() or top.with_suffix(".py").is_file():
                sys.modules.pop(name, None)
    before = set(sys.modules)
    writes_bytecode = sys.dont_write_bytecode
    # As for the model's file: bytecode is told from its source by seconds and size, and litters the user's folder.
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_bytecode
        # While the folder is on the path: a namespace package computes where it lies from that.
        added = {name for name in sys.modules.keys() - before if _lies_in(sys.modules[name], folder)}
        if folder in sys.path:  # the file may have changed the list
            sys.path.remove(folder)
        _imported_from.setdefault(folder, set()).update(added)


def _lies_in(module: ModuleType, folder: str) -> bool:
    """Whether the file of ``module``, or one of the folders of a package without ``__init__.py``, is in ``folder``."""
    file = getattr(module, "__file__", None)
    places = [file] if file else getattr(module, "__path__", [])
    return any(str(place).startswith(folder + os.sep) for place in places)
