"""Locks of the operating system: whoever is killed lets go, whatever the clock says."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NONE_HERE = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
"""EBADF: NFS locks no folder, which cannot be opened for writing."""


class NoLocks(Exception):
    """The file system knows no locks (some network folders)."""


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock of an open file if nobody holds it; it lasts until the file is closed or ``unlock``.

    Raises:
        NoLocks: nobody can hold one there.
    """
    return _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(file: IO[bytes]) -> None:
    """Let go. Said aloud where a forked child may hold the same lock."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; waits while another process or thread holds it.

    Where there are no locks, nobody waits: what the block does must not break anything then, only cost more.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(NoLocks):
            _flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _flock(file: IO[bytes] | int, how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NONE_HERE:
            raise NoLocks(error.strerror) from error
        raise
    return True
