"""Help that can be read at 80 columns and copied from, and completion that is quick enough to press Tab for."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from slimsight.deploy.cli import COMMANDS
from slimsight.deploy.cli.help import HELP
from slimsight.deploy.cli.main import app

from ..conftest import Said

NAMES = [command.__name__ for command in COMMANDS]
HEAVY = {"torch", "numpy", "matplotlib", "pydantic", "onnx", "onnxruntime", "PIL", "yaml"}


def _examples() -> list[tuple[str, str]]:
    return [(name, command) for name in NAMES for command, _ in HELP[name].examples]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns_and_ends_with_examples(
    say: Callable[..., Said], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = say(name, "--help")
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    assert f"  Examples:\n    # {HELP[name].examples[0][1]}\n    slimsight {name}" in said.out


def test_the_list_of_commands_cuts_no_sentence(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = say("--help")
    assert "..." not in said.out.partition("Commands:")[2]
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize(("name", "command"), _examples())
def test_examples_are_commands_that_exist(name: str, command: str) -> None:
    group: Any = get_command(app)
    words = shlex.split(command.partition(" > ")[0])
    assert words[0] == name
    group.commands[name].make_context(name, words[1:]).close()  # parses them, or says what is wrong


def test_help_and_completion_import_nothing_heavy() -> None:
    code = f"import sys, slimsight.deploy.cli.main; print(*sorted(sys.modules.keys() & {HEAVY!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.fixture
def on_the_path(tmp_path: Path) -> dict[str, str]:
    """An environment with a ``slimsight`` on its PATH and a home of its own."""
    script = tmp_path / "bin" / "slimsight"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from slimsight.deploy.cli.main import main; main()" "$@"\n'
    )
    script.chmod(0o755)
    here = str(Path(__file__).parents[3])
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": here}


def test_bash_completes_commands_and_options(on_the_path: dict[str, str]) -> None:
    script = """
eval "$(slimsight --show-completion bash)"
COMP_WORDS=(slimsight ex) COMP_CWORD=1; _slimsight_completion slimsight; echo "${COMPREPLY[@]}"
COMP_WORDS=(slimsight run --re) COMP_CWORD=2; _slimsight_completion slimsight; echo "${COMPREPLY[@]}"
"""
    said = subprocess.run(["bash", "-c", script], env=on_the_path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["export explain", "--reuse"]


def test_zsh_and_fish_complete_too(on_the_path: dict[str, str]) -> None:
    """Their own scripts hand the words over in these variables."""
    zsh = {**on_the_path, "_SLIMSIGHT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "slimsight tr"}
    said = subprocess.run(["slimsight"], env=zsh, capture_output=True, text=True, check=True)
    assert '"trust":"Whether explanations can be trusted' in said.stdout
    fish = {**on_the_path, "_SLIMSIGHT_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    fish["_TYPER_COMPLETE_ARGS"] = "slimsight check --bu"
    said = subprocess.run(["slimsight"], env=fish, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("--budget")


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bash_completions/slimsight.sh"), ("zsh", ".zfunc/_slimsight")])
def test_completion_installs_itself(on_the_path: dict[str, str], tmp_path: Path, shell: str, file: str) -> None:
    asked = {**on_the_path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell of whoever runs the tests
    command = ["slimsight", "--install-completion", shell]
    said = subprocess.run(command, env=asked, capture_output=True, text=True, check=True)
    assert str(tmp_path / file) in said.stdout
    assert "_SLIMSIGHT_COMPLETE" in (tmp_path / file).read_text()
