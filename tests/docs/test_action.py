"""action.yml and the Dockerfile: their form, and that the action's script passes on what it is given, and no more."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimsight.deploy.cli.main import main

from .pages import ROOT

_INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")


def read_action() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_action_has_the_form_of_a_composite_action() -> None:
    action = read_action()
    assert set(action) == {"name", "description", "inputs", "runs"}
    assert action["runs"]["using"] == "composite"
    used = set()
    for step in action["runs"]["steps"]:
        assert set(step) <= {"name", "uses", "with", "run", "shell", "env"}
        assert ("uses" in step) != ("run" in step)
        assert "run" not in step or step["shell"] == "bash"
        assert "${{" not in step.get("run", ""), "an input in a script could hold commands"
        values = [*step.get("env", {}).values(), *step.get("with", {}).values()]
        used |= {name for value in values for name in _INPUT.findall(value)}
    assert used == set(action["inputs"])
    needed = {name for name, given in action["inputs"].items() if given.get("required")}
    assert needed == {"target", "budget"}
    assert all("default" in given for name, given in action["inputs"].items() if name not in needed)


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the action's last step with a stand-in for slimsight; gives the arguments that this gets."""
    program = tmp_path / "slimsight"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\nexit 1\n', encoding="utf-8")
    program.chmod(0o755)

    def run(**given: str) -> list[str]:
        action = read_action()
        step = action["runs"]["steps"][-1]
        inputs = {
            name: given.get(name.replace("-", "_"), one.get("default", "")) for name, one in action["inputs"].items()
        }
        values = {name: _INPUT.sub(lambda match: inputs[match[1]], text) for name, text in step["env"].items()}
        environment = {
            **os.environ,
            **values,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": "s.md",
        }
        done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 1, "the exit code of the check is that of the action"
        return (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()

    return run


def test_the_script_passes_its_inputs_on(checked: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    least = checked(target="model.onnx", budget="my budget.yaml")
    written = ["--json", "slimsight-check.json", "--junit", "slimsight-check.xml", "--summary", "s.md"]
    assert least == ["check", "--budget", "my budget.yaml", *written, "--", "model.onnx"]
    evil = '"; touch evil; $(touch evil)'
    most = checked(target=evil, budget="b", against="a", input="3x8x8", classes="4", measured="v.json")
    more = ["--against", "a", "--input", "3x8x8", "--classes", "4", "--measured", "v.json"]
    assert most == ["check", "--budget", "b", *written, *more, "--", evil]
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    described = capsys.readouterr().out
    assert all(word in described for word in most if word.startswith("--") and len(word) > 2)


def test_the_dockerfile_builds_from_what_is_there_and_runs_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _ in lines} == {"FROM", "RUN", "COPY", "USER", "ENV", "WORKDIR", "ENTRYPOINT", "CMD"}
    names = [name for name, _ in lines]
    assert names[0] == "FROM"
    assert names.index("USER") < names.index("ENTRYPOINT")
    copied = {source for name, rest in lines if name == "COPY" for source in rest.split()[:-1]}
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in kept if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
    links = {path.name for path in (ROOT / "slimsight").iterdir() if path.is_symlink()}
    assert links <= copied, "what slimsight/ links to is copied too"
