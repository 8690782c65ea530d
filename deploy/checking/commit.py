"""Which commit a model comes from: best effort, git need not be there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SECONDS = 5
SHORT = 7


def head_commit(folder: Path) -> str | None:
    """The commit that is checked out where ``folder`` is; None outside of a repository, or without git."""
    git = shutil.which("git")
    if git is None or not folder.is_dir():
        return None
    try:
        found = subprocess.run(
            [git, "rev-parse", "--verify", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
