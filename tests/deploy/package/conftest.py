"""Packages of the tiny run, made once, and their scripts: run in this process, or alone behind a guard of imports."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slimsight.deploy.package import PackageRequest, package_run

GUARD = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in refused if refused else top not in sys.stdlib_module_names and top not in allowed:
            raise ModuleNotFoundError(f"{name} is not the runtime, numpy or pillow")
refused = set(sys.argv[1][1:].split(",")) if sys.argv[1].startswith("-") else None
allowed, script = set(sys.argv[1].split(",")) | {"predict", "engine"}, sys.argv[2]
sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""


@contextmanager
def loaded(script: Path) -> Iterator[ModuleType]:
    """A script of a package as a module; nothing of it stays."""
    path, before = list(sys.path), sys.dont_write_bytecode
    spec = importlib.util.spec_from_file_location(f"packaged_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:], sys.dont_write_bytecode = path, before
        sys.modules.pop("predict", None)


Verified = tuple[int, str, dict[str, Any] | None]


def verify(folder: Path, *options: str) -> Verified:
    """verify.py in this process with few calls: exit code, what it printed, and what it wrote."""
    import contextlib
    import io

    wrote, printed = folder.parent / f"{folder.name}.verify.json", io.StringIO()
    wrote.unlink(missing_ok=True)
    argv = sys.argv
    with loaded(folder / "verify.py") as script:
        script.WARMUP_SECONDS = 0
        sys.argv = ["verify.py", "--json", str(wrote), "--calls", "20", *options]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = script.main()
        finally:
            sys.argv = argv
    found = json.loads(wrote.read_text(encoding="utf-8")) if wrote.exists() else None
    return code, printed.getvalue(), found


def alone(script: Path, allowed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, with Python's isolated mode and a guard of imports.

    Args:
        allowed: packages, separated by commas; after a ``-`` those that are refused instead.
    """
    return subprocess.run(
        [sys.executable, "-I", "-c", GUARD, allowed, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def sum_again(folder: Path, *, without: str | None = None) -> None:
    """SHA256SUMS as if the files had been packaged as they are now."""
    names = [line.partition("  ")[2] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names if name != without
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def packaged(finished, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``packaged("onnxruntime")``: the folder of such a package, which nobody changes."""
    made: dict[tuple[Any, ...], Path] = {}

    def package(target: str, **options: Any) -> Path:
        key = (target, *sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("packages") / target
            package_run(PackageRequest(finished.root, target, out=made[key], **options), cache=cache)
        return made[key]

    return package


@pytest.fixture
def changed(packaged, tmp_path: Path) -> Path:
    """A copy of the package for ONNX Runtime, to be changed."""
    return Path(shutil.copytree(packaged("onnxruntime"), tmp_path / "changed"))
