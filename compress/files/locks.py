"""File locks of the operating system (flock), released when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
"""EBADF: NFS cannot lock folders, which cannot be opened for writing."""


class NoLocks(Exception):
    """The file system does not support locks (some network folders)."""


def try_lock(file: IO[bytes]) -> bool:
    """Acquire the lock of an open file; False if it is taken. Released by closing the file or by ``unlock``.

    Raises:
        NoLocks: the file system does not support locks.
    """
    return _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(file: IO[bytes]) -> None:
    """Release the lock, also for forked children that share it."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context: holds the lock of a folder, after waiting for other processes and threads.

    Without support for locks it does not wait: the block must stay correct then, if less efficient.
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
        if error.errno in _UNSUPPORTED:
            raise NoLocks(error.strerror) from error
        raise
    return True
