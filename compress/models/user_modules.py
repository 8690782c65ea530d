"""Modules of a user's project, as its model file finds them: its neighbours first, whatever else has their names."""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .user_imports import is_users, user_file


@dataclass
class _Project:
    """Modules that model files have imported from their own folders, with the sha256 of their files.

    ``folders``: where they are looked for, the model file's own first.
    """

    folders: tuple[str, ...]
    modules: dict[str, tuple[ModuleType, str | None]] = field(default_factory=dict)


_CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder around this package's folders; inside of the package itself where it is installed."""

_projects: dict[tuple[str, ...], _Project] = {}


def sha256_of(file: Path) -> str | None:
    """None where the file is gone."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def package_of(path: Path, source: bytes) -> str:
    """The package that the file ``path`` is in, by its ``__init__.py`` files and its relative imports; else empty."""
    depth = max(_folders_with_init(path), _levels(source))
    return ".".join(reversed([folder.name for folder in path.parents[:depth]]))


@contextmanager
def project_modules(path: Path, source: bytes) -> Iterator[None]:
    """Context: the model file's folders come first on ``sys.path``, as when Python runs the file itself.

    These are its own folder, and that around the package that it is in. A neighbour counts before any other module of
    the user's of the same name that is imported already, such as that of another version of the project: two versions
    are two models. Modules that other code had imported are back afterwards.
    """
    project = _project_of(path, source)
    others = _hide_others_(project)
    _restore_(project)
    before = set(sys.modules)
    writes_bytecode = sys.dont_write_bytecode
    # Bytecode is told from its source by seconds and size, and litters the user's folder.
    sys.dont_write_bytecode = True
    # A checkout of this package has folders of common names, which are nothing that a model file imports.
    ours = [(place, folder) for place, folder in enumerate(sys.path) if folder and Path(folder).resolve() == _CHECKOUT]
    for _, folder in ours:
        sys.path.remove(folder)
    sys.path[:0] = project.folders
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_bytecode
        # While the folders are on the path: a namespace package computes where it lies from that.
        for name in sys.modules.keys() - before:
            module = sys.modules[name]
            if _lies_in(module, project.folders):
                file = user_file(module)
                project.modules[name] = (module, None if file is None else sha256_of(file))
        for folder in project.folders:
            if folder in sys.path:  # the file may have changed the list
                sys.path.remove(folder)
        for place, folder in ours:
            sys.path.insert(place, folder)
        sys.modules.update(others)


def forget(names: Iterable[str]) -> None:
    """Drop modules of these names: they are imported anew."""
    for name in names:
        sys.modules.pop(name, None)
        for project in _projects.values():
            project.modules.pop(name, None)


def builtins_for(path: Path, source: bytes) -> dict[str, Any] | None:
    """Builtins for a model file that imports its neighbours inside of functions; None where it does not.

    Its ``__import__`` finds them whenever such a function runs, and never those of another project.
    """
    if not any(name.startswith(".") or name in _names_in(path.parent) for name in _late_imports(source)):
        return None

    def import_(name: str, *arguments: Any, **options: Any) -> Any:
        with project_modules(path, source):
            return builtins.__import__(name, *arguments, **options)

    return {**vars(builtins), "__import__": import_}


def _project_of(path: Path, source: bytes) -> _Project:
    around = [path.parents[depth] for depth in _package_depths(path, source)]
    folders = tuple(dict.fromkeys(map(str, (path.parent, *around))))
    return _projects.setdefault(folders, _Project(folders))


def _package_depths(path: Path, source: bytes) -> list[int]:
    """How many folders up those lie that the file imports packages from which it is in itself."""
    named = {name for node in _nodes(source) for name in _imported(node)}
    depths = {depth + 1 for depth, folder in enumerate(path.parents) if folder.name and folder.name in named}
    depths |= {max(_folders_with_init(path), _levels(source))}
    return sorted(depth for depth in depths if depth < len(path.parents))


def _folders_with_init(path: Path) -> int:
    depth = 0
    while depth < len(path.parents) - 1 and (path.parents[depth] / "__init__.py").is_file():
        depth += 1
    return depth


def _levels(source: bytes) -> int:
    """The most dots of a relative import."""
    return max((node.level for node in _nodes(source) if isinstance(node, ast.ImportFrom)), default=0)


def _late_imports(source: bytes) -> Iterator[str]:
    """Top names of modules that functions of the file import when they run; '.' for relative imports."""
    for function in _nodes(source):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                yield from _imported(node)


def _imported(node: ast.AST) -> Iterator[str]:
    """Top names of the modules that a statement imports; '.' for a relative import."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "." if node.level else str(node.module).partition(".")[0]


def _nodes(source: bytes) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(source))
    except (SyntaxError, ValueError):  # reported where the file is executed
        return


def _hide_others_(project: _Project) -> dict[str, ModuleType]:
    """Take modules off ``sys.modules`` that have the name of a neighbour and are another's; those of other code."""
    of_projects = {id(module) for other in _projects.values() for module, _ in other.modules.values()}
    neighbours = {name for folder in project.folders for name in _names_in(Path(folder))} - {"__main__"}
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and name.partition(".")[0] in neighbours
        and is_users(module)
        and not _lies_in(module, project.folders)
    }
    for name in hidden:  # all at once: where a package without __init__.py lies depends on the one around it
        del sys.modules[name]
    return {name: module for name, module in hidden.items() if id(module) not in of_projects}


def _restore_(project: _Project) -> None:
    """Put the project's own modules back, unless a file of theirs has changed since it was imported."""
    files = {name: user_file(module) for name, (module, _) in project.modules.items()}
    if any(file is not None and sha256_of(file) != project.modules[name][1] for name, file in files.items()):
        for name, (module, _) in project.modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        project.modules.clear()
    sys.modules.update({name: module for name, (module, _) in project.modules.items()})


def _names_in(folder: Path) -> set[str]:
    """Names of the modules and packages in a folder."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a folder above the file's that cannot be read has nothing to import, either
        return set()
    return {entry.name.removesuffix(".py") for entry in entries if entry.name.endswith(".py") or entry.is_dir()}


def _lies_in(module: ModuleType, folders: tuple[str, ...]) -> bool:
    """Whether the file of ``module``, or one of the folders of a package without ``__init__.py``, is in ``folders``."""
    file = getattr(module, "__file__", None)
    places = [file] if file else [*getattr(module, "__path__", [])]
    return any(str(place).startswith(folder + os.sep) for place in places for folder in folders)
