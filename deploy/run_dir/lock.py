"""The lock of a run directory: one process writes at a time, and messages name it by its pid.

The lock is the operating system's (flock), which ends with the process, however it ends. On a file system without
locks a claim file, created exclusively, replaces it: it survives a kill, and a person has to remove it.
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

from .paths import MARKER, run_dir_errors

CLAIM = ".slimsight.claim"
"""The claim file, used where there are no locks: ``<pid> <host>`` of the process that writes the run."""


@contextmanager
def run_lock(root: Path, path: Path) -> Iterator[None]:
    """Hold the exclusive lock of the run in ``root`` (``path``, as the user gave it).

    Raises:
        RunError: another process holds it.
    """
    with run_dir_errors(root):
        # Append: neither truncates another process's pid nor fails when the file is new.
        # Unbuffered: on a full disk nothing may be left to write when the file is closed.
        new = not (root / MARKER).exists()
        file = (root / MARKER).open("a+b", buffering=0)
        if new:
            sync_folder(root)  # else a power cut may leave a run's files without its marker
    with file:
        try:
            _acquire(file, path)
        except NoLocks:
            with _claim_file(root, path):
                yield
            return
        if (root / CLAIM).exists():  # made by a host that has no locks here, where this one has
            raise _claimed_error(root, path)
        try:
            with run_dir_errors(root):
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            yield
        finally:
            file.truncate(0)
            unlock(file)


def lock_holder(root: Path) -> int | None:
    """The pid of the process that holds the lock of the run in ``root``, or None."""
    if (claim := _read_claim(root)) is not None:
        return claim[0]
    try:
        with (root / MARKER).open("rb") as file:
            return None if try_lock(file) else _read_pid(file)
    except (OSError, NoLocks):  # no marker, or one that cannot be locked: no writer is known
        return None


def _acquire(file: IO[bytes], path: Path) -> None:
    for _ in range(4):  # ``lock_holder`` of another process takes the lock for microseconds
        with run_dir_errors(path):
            if try_lock(file):
                return
        time.sleep(0.05)
    pid = _read_pid(file)
    holder = f"process {pid}" if pid else "another process"
    raise RunError(f"{path} is in use by {holder}; wait until it ends (or stop it), or choose another --out")


@contextmanager
def _claim_file(root: Path, path: Path) -> Iterator[None]:
    """Hold the claim file of the run in ``root``."""
    claim = root / CLAIM
    with run_dir_errors(root):
        try:
            handle = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            raise _claimed_error(root, path) from None
    try:
        with run_dir_errors(root), os.fdopen(handle, "wb", buffering=0) as file:
            file.write(f"{os.getpid()} {socket.gethostname()}".encode())
        yield
    finally:
        claim.unlink(missing_ok=True)


def _claimed_error(root: Path, path: Path) -> RunError:
    claim = _read_claim(root)
    holder = f"process {claim[0]} on {claim[1]}" if claim else "another process"
    return RunError(
        f"{path} is in use by {holder}, or was when that was killed (its file system has no locks): wait until it "
        f"ends, or remove {path / CLAIM} if it has"
    )


def _read_claim(root: Path) -> tuple[int, str] | None:
    """The pid and the host in the claim file; None where there is none, or it was cut off while it was written."""
    try:
        pid, _, host = (root / CLAIM).read_text(encoding="utf-8").partition(" ")
        return int(pid), host
    except (OSError, ValueError):
        return None


def _read_pid(file: IO[bytes]) -> int | None:
    file.seek(0)
    text = file.read(20)
    return int(text) if text.isdigit() else None
