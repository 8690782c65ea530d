"""One writer at a time: who holds a run.

The lock is the operating system's (flock), so that whoever is killed lets go. Where a file system has none, a file that
only one process can make stands in for it: it survives a kill, and a person has to remove it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from slimsight.compress.errors import RunError
from slimsight.compress.files.atomic import sync_folder
from slimsight.compress.files.locks import NoLocks, try_lock, unlock

from .places import MARKER, translated

CLAIM = ".slimsight.claim"
"""Stands in for the lock: ``<process> <host>`` of whoever writes the run."""


@contextmanager
def held(root: Path, path: Path) -> Iterator[None]:
    """Hold the run in ``root`` (``path``, as the user gave it) alone.

    Raises:
        RunError: another process holds it.
    """
    with translated(root):
        # Append: neither truncates another process's number nor fails when the file is new.
        # Unbuffered: on a full disk nothing may be left to write when the file is closed.
        new = not (root / MARKER).exists()
        file = (root / MARKER).open("a+b", buffering=0)
        if new:
            sync_folder(root)  # else a power cut may leave files without what says that they are a run's
    with file:
        try:
            _lock(file, path)
        except NoLocks:
            with _claimed(root, path):
                yield
            return
        if (root / CLAIM).exists():  # made on a host that has no locks here, where this one has
            raise _claimed_by(root, path)
        try:
            with translated(root):
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            yield
        finally:
            file.truncate(0)
            unlock(file)


def holder(root: Path) -> int | None:
    """The number of the process that holds the run in ``root``, or None."""
    if (claim := _read_claim(root)) is not None:
        return claim[0]
    try:
        with (root / MARKER).open("rb") as file:
            return None if try_lock(file) else _process_in(file)
    except (OSError, NoLocks):  # no marker, or not ours to lock: nobody who could write it is known
        return None


def _lock(file: IO[bytes], path: Path) -> None:
    for _ in range(4):  # a `status` that looks right now holds the lock for microseconds
        with translated(path):
            if try_lock(file):
                return
        time.sleep(0.05)
    number = _process_in(file)
    who = f"process {number}" if number else "another process"
    raise RunError(f"{path} is in use by {who}; wait until it ends (or stop it), or choose another --out")


@contextmanager
def _claimed(root: Path, path: Path) -> Iterator[None]:
    claim = root / CLAIM
    with translated(root):
        try:
            handle = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            raise _claimed_by(root, path) from None
    try:
        with translated(root), os.fdopen(handle, "wb", buffering=0) as file:
            file.write(f"{os.getpid()} {socket.gethostname()}".encode())
        yield
    finally:
        claim.unlink(missing_ok=True)


def _claimed_by(root: Path, path: Path) -> RunError:
    claim = _read_claim(root)
    who = f"process {claim[0]} on {claim[1]}" if claim else "another process"
    return RunError(
        f"{path} is in use by {who}, or was when that was killed (its file system has no locks): wait until it ends, "
        f"or remove {path / CLAIM} if it has"
    )


def _read_claim(root: Path) -> tuple[int, str] | None:
    try:
        number, _, host = (root / CLAIM).read_text(encoding="utf-8").partition(" ")
        return int(number), host
    except (OSError, ValueError):  # none, or cut off in the middle of being written
        return None


def _process_in(file: IO[bytes]) -> int | None:
    file.seek(0)
    text = file.read(20)
    return int(text) if text.isdigit() else None
