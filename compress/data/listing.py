"""The image files of a folder: of its class folders, or of a flat one with a list of labels."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .decode import SUFFIXES, is_image
from .lists import Labels
from .partition import check_classes


@dataclass(frozen=True)
class Chosen:
    """What a recipe takes of a folder: ``classes`` by name (None: all), without the files ``skip`` (below ``base``)."""

    base: Path
    classes: tuple[str, ...] | None = None
    skip: frozenset[str] = frozenset()

    def skipped(self, root: Path) -> frozenset[str]:
        """The names below ``root`` that are left out."""
        below = root.relative_to(self.base).as_posix()
        prefix = "" if below == "." else f"{below}/"
        return frozenset(name.removeprefix(prefix) for name in self.skip if name.startswith(prefix))


@dataclass(frozen=True)
class Listing:
    """Image files below ``root``: sorted names ``<class>/<file>``; ``files`` where they lie, if that is elsewhere."""

    root: Path
    names: tuple[str, ...]
    files: tuple[str, ...] | None = field(default=None, repr=False)

    @property
    def located(self) -> tuple[str, ...]:
        """The path of every file below ``root``."""
        return self.names if self.files is None else self.files

    def facts(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and time of change (ns) of every file."""
        pairs = zip(self.names, self.located, strict=True)
        return [file_facts(self.root / file, name) for name, file in pairs]


class Scanned(NamedTuple):
    """Below a folder: files with their sizes in bytes, and folders with their time of change (ns) and entries."""

    files: list[tuple[str, int]]
    folders: dict[str, tuple[int, int]]


def file_facts(path: Path, name: str) -> tuple[str, int, int]:
    """``name``, and size in bytes and time of change (ns) of the file at ``path``.

    Raises:
        DataError: there is no such file, or it cannot be looked at.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); replace or remove it") from error
    return name, stat.st_size, stat.st_mtime_ns


def class_folders(root: Path, wanted: Collection[str] | None = None) -> list[str]:
    """Names of the class folders in ``root``, sorted, hidden ones ignored; only those ``wanted``, if given.

    Raises:
        DataError: ``root`` does not exist, or holds fewer than two class folders, or none for a class that is wanted.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give a path that holds one folder of images per class")
    try:
        with os.scandir(root) as entries:
            found = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise _unlisted(error) from error
    check_classes(found, str(root))
    if wanted is None:
        return found
    absent = sorted(set(wanted) - set(found))
    if absent:
        raise DataError(
            f"data.classes names {absent[0]}{f' and {len(absent) - 1} more' * (len(absent) > 1)}, but {root} holds no "
            "folder of that name; a class is called what its folder is called"
        )
    return sorted(wanted)


def list_images(root: Path, chosen: Chosen | None = None) -> Listing:
    """Every image below the class folders of ``root``.

    Raises:
        DataError: no class folders, or a class without images; it is named.
    """
    names: list[str] = []
    skip = frozenset[str]() if chosen is None else chosen.skipped(root)
    for label in class_folders(root, None if chosen is None else chosen.classes):
        names += [name for name, _ in scan_class(root, label, skip).files]
    return Listing(root, tuple(names))


def list_flat(root: Path, labels: Labels, classes: Sequence[str], chosen: Chosen) -> Listing:
    """The images of a folder without class folders, by the list of their ``labels``.

    Raises:
        DataError: the list and the folder do not name the same files, or the list names another class.
    """
    by_file = flat_labels(root, [name for name, _ in scan_flat(root, chosen.skipped(root)).files], labels, classes)
    kept = None if chosen.classes is None else frozenset(chosen.classes)
    pairs = sorted((label, file) for file, label in by_file.items() if kept is None or label in kept)
    return Listing(root, tuple(f"{label}/{file}" for label, file in pairs), tuple(file for _, file in pairs))


def flat_labels(root: Path, files: Sequence[str], labels: Labels, classes: Sequence[str]) -> dict[str, str]:
    """The class of each of ``files``, by the list of their labels."""
    found: Mapping[str, str] = labels.of(files, classes)
    missing = [file for file in files if file not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{labels.path} has no label for {root / missing[0]}{more}; add it, or name it in data.skip to leave it out"
        )
    return {file: found[file] for file in files}


def scan_class(root: Path, label: str, skip: Collection[str] = ()) -> Scanned:
    """The images below one class folder, in order of their names, without those to ``skip``.

    Raises:
        DataError: a folder that cannot be listed, a file that is not there or is empty, or no images at all.
    """
    found = Scanned([], {})
    waiting = [label]
    while waiting:
        folder = waiting.pop()
        waiting += _scan(root, folder, skip, found)
    if not found.files:
        known = ", ".join(sorted(SUFFIXES))
        raise DataError(f"class folder {root / label} holds no images ({known}); add images or remove the folder")
    found.files.sort(key=lambda item: item[0].split("/"))
    return found


def scan_flat(root: Path, skip: Collection[str] = ()) -> Scanned:
    """The images of a folder without class folders, in order of their names.

    Raises:
        DataError: as ``scan_class``, and if there are folders in it.
    """
    found = Scanned([], {})
    folders = sorted(_scan(root, "", skip, found))
    if folders:
        raise DataError(
            f"data.test_labels is for a folder of images alone, but {root} holds folders ({folders[0]}): where they "
            "are named after the classes, leave test_labels out"
        )
    if not found.files:
        raise DataError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}); add the images that are listed")
    found.files.sort()
    return found


def _scan(root: Path, folder: str, skip: Collection[str], found: Scanned) -> list[str]:
    """One folder into ``found``; gives the folders in it. As ``os.walk``: links to folders are not followed."""
    inside: list[str] = []
    count = 0
    prefix = f"{folder}/" if folder else ""
    place = os.path.join(root, folder)  # noqa: PTH118 - a million files: Path objects would take most of the time
    try:
        changed = os.stat(place).st_mtime_ns  # noqa: PTH116 - as above
        with os.scandir(place) as entries:
            for entry in entries:
                count += 1
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    inside.append(prefix + entry.name)
                elif _is_image(entry.name) and prefix + entry.name not in skip and not entry.is_dir():
                    found.files.append((prefix + entry.name, _size(entry)))
    except OSError as error:
        raise _unlisted(error) from error
    found.folders[folder] = (changed, count)
    return inside


def _size(entry: os.DirEntry[str]) -> int:
    try:
        size = entry.stat().st_size
    except OSError as error:
        raise DataError(f"{entry.path} cannot be read ({error.strerror}); replace or remove it") from error
    if not size:
        raise DataError(f"{entry.path} is empty (0 bytes); replace it, or name it in a file for data.skip")
    return size


def _is_image(name: str) -> bool:
    """``is_image`` for a name without folders; the usual suffixes without building a path."""
    return name.endswith((".JPEG", ".jpg", ".jpeg", ".png")) or is_image(name)


def _unlisted(error: OSError) -> DataError:
    return DataError(f"folder {error.filename} cannot be listed ({error.strerror}); make it readable")


def located(listing: Listing) -> Iterator[tuple[str, Path]]:
    """Name and path of every file."""
    for name, file in zip(listing.names, listing.located, strict=True):
        yield name, listing.root / file
