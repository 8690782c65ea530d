"""The shape of the source tree: file sizes, names, docstrings, and which module imports which."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("compress", "export", "deploy")
FILES = sorted(
    [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")] + [*(ROOT / "slimsight").glob("*.py")]
)
TREES = {path: ast.parse(path.read_bytes()) for path in FILES}
LONGEST = 350
LOOSE = 8


def to_module(path: Path) -> str:
    """The name that ``path`` is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "slimsight" else ("slimsight", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {to_module(path): path for path in FILES}


def imported_at_start(module: str) -> set[str]:
    """Modules of ours that importing ``module`` imports, the packages that they lie in included."""
    named = named_by(module, at_start(TREES[MODULES[module]]))
    return (named | {package for name in named for package in packages_of(name)} - packages_of(module)) - {module}


def named_by(module: str, nodes: Iterable[ast.AST]) -> set[str]:
    """Modules of ours that the import statements among ``nodes`` name."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    named = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            named |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return named & MODULES.keys() - {module}


def at_start(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when a module is imported: neither those of functions nor those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        only_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.stmt | ast.ExceptHandler) and not only_for_types:
            yield node
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from at_start(node)


def packages_of(module: str) -> set[str]:
    """The packages that ``module`` lies in: they are imported before it."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: imported_at_start(module) for module in MODULES}
    assert graph["slimsight.deploy.check"] >= {"slimsight.deploy.check.check"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


def test_no_two_files_import_each_other() -> None:
    named = {module: named_by(module, ast.walk(TREES[path])) for module, path in MODULES.items()}
    assert not [
        (one, other) for one, others in named.items() for other in others if one < other and one in named[other]
    ]


def test_a_class_name_means_one_class() -> None:
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]


def test_no_file_holds_two_ideas() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def test_rooms_hold_the_files() -> None:
    loose = [path.name for path in (ROOT / "deploy").glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= LOOSE


def test_every_module_says_what_it_is() -> None:
    assert not [str(path.relative_to(ROOT)) for path, tree in TREES.items() if not ast.get_docstring(tree)]
