"""What the operating system says about a run's folder, in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimsight.compress.errors import RunError
from slimsight.compress.files import NO_ROOM, no_room


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the OSErrors of a block into one sentence about ``path``, a run's folder or a place in it."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            remedy = f"{no_room(error)}; free some space or choose another --out"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file stands in its place; choose another --out"
        else:
            remedy = f"{error.strerror or error}; choose a folder that you may write with --out"
        raise RunError(f"cannot use {path} as the folder of a run: {remedy}") from error
