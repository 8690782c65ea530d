"""Code that is not ours: whatever it raises reaches the user as one sentence that names the place."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError, SlimError
from ..registry import nearest

_TORCH = str(Path(torch.__file__).parent) + os.sep


class UserCode:
    """Context: an exception inside becomes a ModelError "``doing``: type: message (file, line n)".

    The place is the deepest line in ``file``; without one, the deepest line outside torch. Interrupts pass.
    """

    def __init__(self, doing: str, file: Path | None = None) -> None:
        self.doing = doing
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # sys.exit() in a script that was meant to be run, not imported, must not end ours without a word.
        if isinstance(error, SlimError) or not isinstance(error, Exception | SystemExit):
            return
        text = " ".join(str(error).split())
        place = _place(error, trace, self.file)
        raise ModelError(f"{self.doing}: {type(error).__name__}{f': {text}' if text else ''} ({place})") from error


def calling_line() -> str:
    """The line outside torch, and outside of this package, from which torch is just being called."""
    ours = str(Path(__file__).parents[1]) + os.sep
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith((_TORCH, ours))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}"


def _place(error: BaseException, trace: TracebackType | None, file: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(trace)
    if file is None:
        chosen = [frame for frame in frames if not frame.filename.startswith(_TORCH)]
    else:
        chosen = [frame for frame in frames if frame.filename == str(file)]
    frame = (chosen or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"


# A parameter of one of these names gets the number of classes, wherever it stands.
CLASSES_NAMES = ("classes", "num_classes", "n_classes")


def is_file_name(name: str) -> bool:
    """Whether ``name`` means a Python file: ``file.py:factory``, or ``file.py`` without its factory."""
    return name.endswith(".py") or ".py:" in name


def split_file_name(name: str) -> tuple[Path, str]:
    """The file that ``name`` means, in full, and its factory; empty where none is given."""
    file, _, factory = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return Path(file).expanduser().resolve(), factory


def build_from_file(name: str, classes: int) -> nn.Module:
    """The network of ``path/to/file.py:factory``: ``factory(classes)``, or ``factory()`` if it takes nothing.

    The file is run again only when its content has changed. It may import its neighbours.

    Raises:
        ConfigError: no such file or factory, or a factory with other arguments.
        ModelError: the file or the factory raises, or the result is no ``torch.nn.Module``.
    """
    path, factory_name = split_file_name(name)
    if not path.is_file():
        raise ConfigError(f"model '{name}': there is no file {path}; give path/to/file.py:factory")
    with _neighbours_importable(path):
        module = _load(path)
        factory = _factory(module, path, factory_name)
        with UserCode(f"model factory '{factory_name}' of {path} failed", path):
            net = factory(**_arguments(factory, factory_name, path, classes))
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"model factory '{factory_name}' of {path} returned {type(net).__name__}; "
            "it must return a torch.nn.Module that maps images (N, 3, H, W) to logits (N, classes)"
        )
    return net


def _load(path: Path) -> ModuleType:
    """The module of ``path``: one per content, so its classes stay the same as long as the file does."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read model file {path}: {error.strerror}") from error
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    unique = f"_slimsight_model_{path.stem}_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickles look their module up while it is being run
    try:
        with UserCode(f"model file {path} cannot be imported", path):
            # Compiled here, not by the loader: its bytecode cache would litter the user's folder and compares
            # whole seconds, so an edit within the same second could go unseen.
            exec(compile(source, str(path), "exec"), module.__dict__)
    except ModelError:
        del sys.modules[unique]
        raise
    return module


def _factory(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
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


def _arguments(factory: Callable[..., Any], name: str, path: Path, classes: int) -> dict[str, int]:
    """The keyword arguments to call ``factory`` with: the number of classes or nothing."""
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
        "it may need the number of classes alone, or nothing: wrap it in a function that gives it the rest"
    )


_imported_from: dict[str, set[str]] = {}
"""Names in ``sys.modules`` of what model files have imported from their own folders, by folder."""


@contextmanager
def _neighbours_importable(path: Path) -> Iterator[None]:
    """Put the file's folder first on ``sys.path``, as when Python runs the file itself.

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
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the file may have changed the list
            sys.path.remove(folder)
        added = {name for name in sys.modules.keys() - before if _lies_in(sys.modules[name], folder)}
        _imported_from.setdefault(folder, set()).update(added)


def _lies_in(module: ModuleType, folder: str) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(folder + os.sep)
