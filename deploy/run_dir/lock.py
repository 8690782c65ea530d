"""One writer at a time: who holds the lock of a run's marker."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from compress.errors import RunError

from .failures import translated


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock if nobody holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(file: IO[bytes], path: Path) -> None:
    """Take the lock of the run in ``path``.

    Raises:
        RunError: another process holds it.
    """
    for _ in range(4):  # a `status` that looks right now holds the lock for microseconds
        with translated(path):
            if try_lock(file):
                return
        time.sleep(0.05)
    number = process_in(file)
    who = f"process {number}" if number else "another process"
    raise RunError(f"{path} is in use by {who}; wait until it ends (or stop it), or choose another --out")


def unlock(file: IO[bytes]) -> None:
    """Said aloud, because a forked child may hold the same lock."""
    fcntl.flock(file, fcntl.LOCK_UN)


def process_in(file: IO[bytes]) -> int | None:
    """The number that the holder wrote into the marker."""
    file.seek(0)
    text = file.read(20)
    return int(text) if text.isdigit() else None
