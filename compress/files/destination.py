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

from ..errors import ConfigError
from .untrusted import is_utf8, printable

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


def check_name(given: str) -> None:
    """Refuse the name of a file, or ``file.py:factory``, that is not UTF-8, or a link to such a name.

    Raises:
        ConfigError: it is one.
    """
    if not is_utf8(given):
        raise ConfigError(f"the argument {printable(given, 500)} is a name that is not UTF-8: rename it, and try again")
    file = given.rpartition(":")[0] if ".py:" in given else given
    if "\0" not in file and not is_utf8(place := os.path.realpath(file)):
        raise ConfigError(
            f"the argument {printable(given, 500)} leads to {printable(place, 500)}, whose name, or that of a folder "
            "above it, is not UTF-8: rename that, and try again"
        )


def check_file_destination(path: Path, option: str, example: str = "result") -> None:
    """Refuse a place that no file can be written to, before the work whose result it is to get.

    Args:
        example: a name for the file, for the message.

    Raises:
        ConfigError: it is a folder, its links lead in a circle, or its folder cannot be made or written into.
    """
    try:
        place = follow_links(path)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written: {error.strerror}; give another file") from error
    if place.is_dir():
        raise ConfigError(f"{option} {path} is a folder; give the file to write, e.g. {path / example}")
    if place.exists() and not is_replaceable(place):
        return  # a device or a pipe
    _check_folder(place.parent, f"{option} {path}")


def check_folder_destination(path: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written into, before the work whose result it is to get.

    Raises:
        ConfigError: it, or what is to hold it, is no folder, or is not writable.
    """
    _check_folder(path.absolute(), f"{option} {path}")


def _check_folder(folder: Path, given: str) -> None:
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ConfigError(f"{given} cannot be written: {there} is no folder; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{given} cannot be written: {there} is not writable; choose another place")


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
