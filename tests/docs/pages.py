"""Code blocks and commands of README and docs/, and a shell that runs a command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`(?:\.venv/bin/)?(slimsight [^`\n]+)`")
_EXIT = re.compile(r"#\s*exit (\d)(?=:|$)")


@dataclass(frozen=True)
class Command:
    """A line of a block, continuation lines joined. ``code``: expected exit code, set by a comment ``# exit 1``."""

    line: str
    code: int

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def is_ours(self) -> bool:
        return self.words[0].rpartition("/")[2] == "slimsight" and not re.search(r"[|><;&$]", self.line.split(" #")[0])


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [body for kind, body in _BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(text: str) -> Iterator[Command]:
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            found = _EXIT.search(line)
            yield Command(line.strip(), int(found[1]) if found else 0)


def spans(page: Path) -> list[str]:
    """slimsight commands in running text: ``slimsight ...`` between single backticks."""
    return _CODE.findall(re.sub(_BLOCK, "", page.read_text(encoding="utf-8")))


def in_shell(line: str, folder: Path, **environment: str) -> tuple[int, str]:
    """Run by bash, with the commands and the pytest plugin of this checkout; gives exit code and output."""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name, code in (("slimsight", '-c "from slimsight.deploy.cli.main import main; main()"'), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    everything = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "PYTEST_ADDOPTS": "-p no:slimsight -p slimsight.pytest_plugin",
        **environment,
    }
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        everything.pop(name, None)
    done = subprocess.run(
        ["bash", "-e", "-c", line], cwd=folder, env=everything, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr
