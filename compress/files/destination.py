"""Where a file is written that a user names: links are followed, and devices, pipes and open files are written into."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROCESSES = Path("/proc")
"""Where Linux shows the open files of processes; ``/dev/stdout`` and ``/dev/fd/3`` are links into it."""
_MOST_LINKS = 40  # as Linux follows


def follow_links(path: Path) -> Path:
    """The path that links of ``path`` lead to, whether or not there is a file; an open file's own link is kept.

    Raises:
        OSError: the links lead in a circle.
    """
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(path.parent)) / path.name
        if place.is_relative_to(_PROCESSES) or not place.is_symlink():
            return place
        path = place.parent / place.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def is_replaceable(place: Path) -> bool:
    """Whether another file may be renamed over ``place``: there is none yet, or a regular one (or a folder: refused).

    Args:
        place: as ``follow_links`` gives it.
    """
    return not place.is_relative_to(_PROCESSES) and (place.is_file() or place.is_dir() or not place.exists())


@contextmanager
def written_into(place: Path) -> Iterator[Path]:
    """Context: a temporary path; if the block succeeds, its content is written into the device, pipe or open file."""
    with tempfile.TemporaryDirectory(prefix="slimsight-") as folder:
        part = Path(folder) / place.name
        yield part
        # A descriptor of our own keeps its position: what was printed before is not overwritten.
        own = place.parent == _PROCESSES / str(os.getpid()) / "fd" and place.name.isdigit()
        sys.stdout.flush()
        with part.open("rb") as made, open(os.dup(int(place.name)) if own else place, "wb", 0) as file:  # noqa: PTH123
            shutil.copyfileobj(made, file)
