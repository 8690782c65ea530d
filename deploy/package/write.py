"""Writes a package as a folder or as a zip with the same bytes for the same content, atomically; never over others'.

A package is known by its SHA256SUMS. ``--force`` replaces an earlier package: what it wrote is removed if nobody
changed it, and all other files in its folder stay.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.atomic import (
    atomic_path,
    make_folder,
    remove_if_empty,
    sync_file,
    sync_folder,
    write_errors,
)
from slimsight.compress.files.destination import check_file_destination, check_folder_destination
from slimsight.compress.files.sealed import sha256_of_file
from slimsight.compress.files.untrusted import MEBIBYTE, path_inside, printable, read_text

SUMS: Final = "SHA256SUMS"
PACKAGE_MARK: Final = "golden/golden.json"
"""Listed in every package's SHA256SUMS."""
_MOST_SUMS: Final = MEBIBYTE
_FIRST_DAY: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
_MODE: Final = 0o644
_NAMED: Final = 3

Content = Mapping[str, bytes | Path]
"""The files of a package by name, with slashes: their bytes, or the file to copy."""


def is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


def check_package_destination(out: Path, *, force: bool) -> None:
    """Refuse a place where a package would replace something else; before any work.

    Raises:
        ConfigError: it cannot be written, or holds what no package wrote, or a package and ``force`` is not given.
    """
    if is_zip(out):
        check_file_destination(out, "--out", "package.zip")
        if not out.exists():
            return
        if not _is_package_zip(out):
            raise ConfigError(
                f"--out {out} exists and is no package as slimsight wrote it: it is kept; choose another name"
            )
        if not force:
            raise ConfigError(f"--out {out} exists: give --force to replace that package, or choose another name")
        return
    check_folder_destination(out, "--out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    listed = _listed(out)
    if listed is None:
        raise ConfigError(
            f"--out {out} is not empty and holds no package of slimsight: it is kept; choose a new or empty folder"
        )
    if not force:
        raise ConfigError(f"--out {out} holds a package: give --force to replace it, or choose another folder")
    changed = [
        name for name, digest in listed.items() if (out / name).is_file() and sha256_of_file(out / name) != digest
    ]
    if changed:
        named = ", ".join(map(printable, changed[:_NAMED]))
        raise ConfigError(
            f"{named} in {out} was changed since it was packaged: it is kept; move it away, or choose another folder"
        )


def write_package(out: Path, content: Content, *, force: bool) -> None:
    """Write ``content`` and its SHA256SUMS to the folder or the zip ``out``.

    Raises:
        ConfigError: as ``check_package_destination``.
        RunError: the disk is full, or ``out`` is not writable.
    """
    check_package_destination(out, force=force)
    if is_zip(out):
        with atomic_path(out) as part:
            _write_zip(part, content)
        return
    place = Path(os.path.realpath(out))
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with write_errors(out):
            _refuse_others(place, content.keys())
            make_folder(place.parent)
            _write_folder(part, content)
            _move_in(part, place, content.keys())
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_folder(folder: Path, content: Content) -> None:
    for name, source in content.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(source)
    (folder / SUMS).write_text(_sums({name: sha256_of_file(folder / name) for name in content}), encoding="utf-8")
    for file in (path for path in folder.rglob("*") if path.is_file()):
        sync_file(file)


def _move_in(part: Path, place: Path, names: Collection[str]) -> None:
    """Put the files of ``part`` into the folder ``place``, and remove those that only an earlier package wrote.

    SHA256SUMS comes last: a package that was interrupted in between does not pass its own check.
    """
    earlier = _listed(place) or {}
    if not place.is_dir():
        part.replace(place)
    else:
        for name in (*sorted(names), SUMS):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).replace(place / name)
        for name in earlier.keys() - names:
            (place / name).unlink(missing_ok=True)
            remove_if_empty((place / name).parent)
    sync_folder(place.parent)


def _refuse_others(place: Path, names: Collection[str]) -> None:
    """Refuse to replace a file that no package wrote."""
    earlier = _listed(place) or {}
    taken = next((name for name in sorted(names) if name not in earlier and os.path.lexists(place / name)), None)
    if taken is not None:
        raise ConfigError(f"{place / taken} exists, and no package wrote it: it is kept; move it away")


def _sums(digests: Mapping[str, str]) -> str:
    """In the form of sha256sum, which checks it by ``sha256sum -c SHA256SUMS``."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def _write_zip(path: Path, content: Content) -> None:
    """Not compressed: weights hardly shrink, and libraries compress the same bytes differently."""
    digests = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            source = content[name]
            data = source.read_bytes() if isinstance(source, Path) else source
            digests[name] = hashlib.sha256(data).hexdigest()
            _add(archive, name, data)
        _add(archive, SUMS, _sums(digests).encode())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _FIRST_DAY)
    entry.create_system, entry.external_attr = 3, _MODE << 16  # as on Linux, whatever the machine
    archive.writestr(entry, data)


def _listed(folder: Path) -> dict[str, str] | None:
    """The files that an earlier package wrote into ``folder``, with their checksums; None: it is no package."""
    try:
        return _parse_sums(read_text(folder / SUMS, _MOST_SUMS), folder)
    except (OSError, UnicodeDecodeError):
        return None


def _is_package_zip(path: Path) -> bool:
    """Whether a zip holds what a package wrote, unchanged, and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(SUMS)
            listed = _parse_sums(archive.read(entry).decode(), path) if entry.file_size <= _MOST_SUMS else None
            if listed is None or sorted(archive.namelist()) != sorted((*listed, SUMS)):
                return False
            return all(_sha256_in(archive, name) == digest for name, digest in listed.items())
    # What zipfile raises for a file that is none, lacks a list of checksums, or is packed or encrypted in another way.
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError, NotImplementedError, RuntimeError):
        return False


def _sha256_in(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        digest = hashlib.sha256()
        while block := file.read(MEBIBYTE):
            digest.update(block)
    return digest.hexdigest()


def _parse_sums(text: str, root: Path) -> dict[str, str] | None:
    found = {}
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or path_inside(root, name) is None:
            return None
        found[name] = digest
    return found if PACKAGE_MARK in found else None
