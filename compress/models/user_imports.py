"""The user's Python files that a model file imports, found through its import statements and theirs."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

_INSTALLED = tuple(
    Path(place).resolve()
    for key, place in sysconfig.get_paths().items()
    if key in ("stdlib", "platstdlib", "purelib", "platlib")
)
_INSTALLED_NAMES = frozenset({"site-packages", "dist-packages"})
_OURS = __name__.partition(".")[0]


def user_files(module: ModuleType, others: Collection[str] = ()) -> dict[str, Path]:
    """Files that ``module`` has imported, at any depth, by module name; none of installed packages.

    Args:
        others: names of modules that it has imported in another way than by an import statement.
    """
    found: dict[str, Path] = {}
    pending = [*_imported_names(module, Path(str(module.__file__))), *others]
    while pending:
        name = pending.pop()
        other = sys.modules.get(name)
        file = None if name in found or other is None else user_file(other)
        if other is not None and file is not None:
            found[name] = file
            pending += _imported_names(other, file)
    return found


def user_file(module: ModuleType) -> Path | None:
    """The file of a module of the user's; None for one of Python's, of an installed package or of this one."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and is_users(module) and Path(file).is_file() else None


def is_users(module: ModuleType) -> bool:
    """Whether a module is the user's: neither Python's, nor of an installed package, nor of this one.

    Its file may be gone. A package without ``__init__.py`` is where its folders are.
    """
    if module.__name__.partition(".")[0] == _OURS:
        return False
    file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    if not file and type(folders) is list:  # made by hand, as six.moves
        return False
    places = [Path(place).resolve() for place in ([file] if file else folders or ())]
    known = file or folders is not None
    return bool(known) and not any(map(is_installed, places))


def is_installed(path: Path) -> bool:
    """Whether a file is Python's or an installed package's."""
    return bool(_INSTALLED_NAMES.intersection(path.parts)) or any(path.is_relative_to(place) for place in _INSTALLED)


def _imported_names(module: ModuleType, file: Path) -> Iterator[str]:
    """Names that the import statements of ``file`` may load: each module, the packages around it, and what is taken
    from it, which may be a module, too."""
    if file.suffix != ".py":
        return
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from _with_packages(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(module: ModuleType, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` takes from."""
    if not node.level:
        return node.module or ""
    package = (getattr(module, "__package__", None) or "").split(".")
    around = package[: len(package) - node.level + 1]
    return ".".join([*around, *([node.module] if node.module else [])])


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
