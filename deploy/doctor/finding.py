"""One thing that was looked at, and how what is missing is installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``note``: works, with a restriction; ``absent``: optional and not there."""

    area: str
    name: str
    state: State
    found: str
    remedy: str = ""


def pip_install(requirement: str) -> str:
    """The command that installs it into the Python that runs this."""
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} -m pip install '{requirement}'"


def installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
