"""Whether the files of a cache folder are what was written into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import Damaged, RunError
from ..sealed import find_damage, read_sealed, sha256_of_file, write_sealed

ALWAYS = 2 << 30
"""Bytes: a file up to this size is read and compared whenever it is opened (about a second for each gigabyte)."""

_SEEN = "verified.json"


def sums_of(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of files in ``folder``, by name."""
    return {name: sha256_of_file(folder / name) for name in names}


def check_files(folder: Path, sums: Mapping[str, str]) -> None:
    """Refuse the files in ``folder`` where one is not what was written.

    A file of more than ``ALWAYS`` bytes is read once, and again whenever its size or its time of change is another.

    Raises:
        Damaged: names the file.
    """
    for name, expected in sums.items():
        path = folder / name
        large = path.is_file() and path.stat().st_size > ALWAYS
        if large and _seen(folder).get(name) == _stamp(path, expected):
            continue
        if (damage := find_damage(path, sha256=expected)) is not None:
            raise damage
        if large:
            _remember(folder, name, _stamp(path, expected))


def _stamp(path: Path, sha256: str) -> list[str]:
    found = path.stat()
    return [sha256, *map(str, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))]


def _seen(folder: Path) -> dict[str, list[str]]:
    try:
        return read_sealed(folder / _SEEN)
    except (FileNotFoundError, Damaged):
        return {}


def _remember(folder: Path, name: str, stamp: list[str]) -> None:
    try:
        write_sealed(folder / _SEEN, {**_seen(folder), name: stamp})
    except (RunError, OSError):  # a full or read-only disk: it is read again next time
        return
