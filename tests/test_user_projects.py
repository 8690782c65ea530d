"""Projects that have modules of their own named like folders of ours: their tests run, and their models are theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

NETWORK = """
def to_network(classes):
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes),
    )
"""
RECIPE = """
threads: 1
data: {source: digits, image_size: 16, flip: false, crop_padding: 0}
model: {name: "model.py:build"}
explainer: {enabled: false}
gates: {steer: magnitude}
latency: {rounds: 20, warmup_seconds: 0.1}
"""
TESTS = """
import sys


def test_modules_are_the_project_s_own():
    assert {name: sys.modules[name].__file__ for name in MODULES} == MODULES


def test_nothing_of_slimsight_is_imported_but_its_plugin():
    ours = {name for name in sys.modules if name.partition(".")[0] == "slimsight"}
    assert ours == {"slimsight", "slimsight.pytest_plugin"}
"""
COMMANDS = """
import json, sys

from slimsight.deploy.cli.main import main

folder, modules, commands = json.loads(sys.argv[1])
path = list(sys.path)
assert path.count(folder) == 1
for words in commands:
    sys.path[:] = path
    if words[0] == "inspect":  # the model has its neighbours without PYTHONPATH, too
        sys.path.remove(folder)
    try:
        main(words)
    except SystemExit as end:
        print("exit code", end.code or 0, "of", words[0])
    assert {name: sys.modules.pop(name).__file__ for name in modules} == modules
    for name in [name for name in sys.modules if name.startswith("_slimsight_model")]:
        del sys.modules[name]
"""
PROJECTS = {
    "packages": ("deploy/__init__.py", "export.py", "compress/__init__.py"),
    "modules": ("deploy.py", "export/__init__.py", "compress.py"),
    "src": ("src/deploy/__init__.py", "src/export.py"),
}
BESIDE = ("config.py", "data.py", "models/__init__.py", "slimsight_x.py", "utils.py")
"""Lie in every project, too."""


@dataclass(frozen=True)
class Project:
    """A project with modules of its own (name: file), and a ``model.py`` in ``code`` that imports them."""

    root: Path
    code: Path
    modules: dict[str, str]


@pytest.fixture(params=PROJECTS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    code = tmp_path / "src" if request.param == "src" else tmp_path
    files = [*(tmp_path / name for name in PROJECTS[request.param]), *(code / name for name in BESIDE)]
    modules = {file.parent.name if file.name == "__init__.py" else file.stem: str(file) for file in files}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NETWORK)
    imports = "".join(f"from {name} import to_network\n" for name in modules)
    (code / "model.py").write_text(f"{imports}def build(classes): return to_network(classes)\n")
    (code / "recipe.yaml").write_text(RECIPE)
    (code / "budget.yaml").write_text("macs: 10M\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_own.py").write_text(f"import {', '.join(modules)}\nMODULES = {modules}\n{TESTS}")
    settings = f'[tool.pytest.ini_options]\npythonpath = ["{code.relative_to(tmp_path)}"]\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    return Project(tmp_path, code, modules)


@pytest.fixture
def environment(installed: Path, tmp_path: Path) -> dict[str, str]:
    """slimsight is installed; this session's pytest leaves nothing in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "PYTHONPATH": str(installed), "SLIMSIGHT_CACHE": str(tmp_path / "cache")}


def test_its_tests_run(project: Project, environment: dict[str, str]) -> None:
    script = str(Path(sysconfig.get_path("scripts")) / "pytest")
    for command in ([sys.executable, "-m", "pytest"], [script]):
        found = subprocess.run(
            [*command, "-q"], cwd=project.root, env=environment, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr
        assert "2 passed" in found.stdout


def test_its_models_are_inspected_checked_and_run(project: Project, environment: dict[str, str]) -> None:
    """In one process, started with the project on PYTHONPATH."""
    shape = ("--input", "3x16x16")
    commands = [
        ["inspect", "model.py:build", *shape],
        ["check", "model.py:build", *shape, "--budget", "budget.yaml"],
        ["run", "recipe.yaml", "--dry-run"],
    ]
    path = f"{project.code}{os.pathsep}{environment['PYTHONPATH']}"
    found = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([str(project.code), project.modules, commands])],
        cwd=project.code,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    ends = [line for line in found.stdout.splitlines() if line.startswith("exit code")]
    assert ends == [f"exit code 0 of {words[0]}" for words in commands]
