"""What a power cut leaves: a file's content only once it was synced, its name only once its folder was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_SUCH_THING = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def sync_file(path: Path) -> None:
    """Return once the content of ``path`` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Return once the names in ``folder`` are on the disk: what was renamed, made or removed there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:  # network and user-space file systems may sync names by themselves
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it that are missing, each to be there after a power cut too."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there; it does not come back after a power cut."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)
