"""Listing of image files: in class folders, or in a flat folder with a label list."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import BrokenImage, DataError
from .decode import SUFFIXES, is_image, is_left_out
from .lists import Labels
from .partition import check_classes, first_names

UNLABELLED = "images"
"""The one class that the names of images without labels begin with."""

_FEWEST = 3


@dataclass(frozen=True)
class FolderFilter:
    """Selects files of a folder: ``classes`` by name (None: all), without the files ``skip`` (below ``base``)."""

    base: Path
    classes: tuple[str, ...] | None = None
    skip: frozenset[str] = frozenset()

    def skipped_below(self, root: Path) -> frozenset[str]:
        """The skipped names below ``root``, relative to it."""
        below = root.relative_to(self.base).as_posix()
        prefix = "" if below == "." else f"{below}/"
        return frozenset(name.removeprefix(prefix) for name in self.skip if name.startswith(prefix))


@dataclass(frozen=True)
class Listing:
    """Image files below ``root``: sorted names ``<class>/<file>``, and their paths ``files`` if these differ."""

    root: Path
    names: tuple[str, ...]
    files: tuple[str, ...] | None = field(default=None, repr=False)

    def paths(self) -> Iterator[tuple[str, Path]]:
        """(name, path) of each file."""
        for name, file in zip(self.names, self.names if self.files is None else self.files, strict=True):
            yield name, self.root / file

    def only(self, names: Collection[str]) -> Listing:
        """The files of ``names``, in this listing's order."""
        chosen = frozenset(names)
        pairs = [
            (name, file) for name, file in zip(self.names, self.files or self.names, strict=True) if name in chosen
        ]
        files = None if self.files is None else tuple(file for _, file in pairs)
        return Listing(self.root, tuple(name for name, _ in pairs), files)

    def facts(self) -> list[tuple[str, int, int, int]]:
        """``file_facts`` of each file."""
        return [file_facts(path, name) for name, path in self.paths()]


class Scanned(NamedTuple):
    """Scan of a folder: files with sizes in bytes; folders with time of the last change in ns and number of entries."""

    files: list[tuple[str, int]]
    folders: dict[str, tuple[int, int]]


def file_facts(path: Path, name: str) -> tuple[str, int, int, int]:
    """``name``, size in bytes, and times in ns of the last change of the content and of the file at ``path``.

    The first of these times is what copying tools restore; the second is the system's alone.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); replace or remove it") from error
    return name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def class_folders(root: Path, selected: Collection[str] | None = None) -> list[str]:
    """Sorted names of the visible class folders in ``root``; only those ``selected``, if given.

    Raises:
        DataError: ``root`` does not exist, holds fewer than two class folders, or lacks a selected one.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give a path that holds one folder of images per class")
    try:
        with os.scandir(root) as entries:
            folders = sorted(entry.name for entry in entries if not is_left_out(entry.name) and entry.is_dir())
    except OSError as error:
        raise _listing_error(error) from error
    check_classes(folders, str(root))
    if selected is None:
        return folders
    absent = sorted(set(selected) - set(folders))
    if absent:
        raise DataError(
            f"data.classes names {first_names(absent, 1)}, but {root} holds no folder of that name; a class is named "
            "after its folder"
        )
    return sorted(selected)


def list_images(root: Path, selection: FolderFilter | None = None) -> Listing:
    """All images below the class folders of ``root``.

    Raises:
        DataError: no class folders, or a class without images; it is named.
    """
    names: list[str] = []
    skip = frozenset[str]() if selection is None else selection.skipped_below(root)
    for label in class_folders(root, None if selection is None else selection.classes):
        names += [name for name, _ in scan_class(root, label, skip).files]
    return Listing(root, tuple(names))


def list_unlabelled(root: Path, selection: FolderFilter) -> Listing:
    """All images below ``root``, in folders or not, as images of one class.

    Raises:
        DataError: a folder cannot be listed, a file is missing or empty, or there are fewer than three images.
    """
    files = [name for name, _ in scan_unlabelled(root, selection.skipped_below(root)).files]
    return Listing(root, tuple(f"{UNLABELLED}/{name}" for name in files), tuple(files))


def list_flat(root: Path, labels: Labels, classes: Sequence[str], selection: FolderFilter) -> Listing:
    """The images of a flat folder, with the classes given by its label list.

    Raises:
        DataError: a file without a label, or a label that is not a class of ``classes``.
    """
    by_file = flat_labels(
        root, [name for name, _ in scan_flat(root, selection.skipped_below(root)).files], labels, classes
    )
    kept = None if selection.classes is None else frozenset(selection.classes)
    pairs = sorted((label, file) for file, label in by_file.items() if kept is None or label in kept)
    return Listing(root, tuple(f"{label}/{file}" for label, file in pairs), tuple(file for _, file in pairs))


def flat_labels(root: Path, files: Sequence[str], labels: Labels, classes: Sequence[str]) -> dict[str, str]:
    """The class of each of ``files``, by the label list."""
    by_file = labels.of(files, classes)
    missing = [file for file in files if file not in by_file]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{labels.path} has no label for {root / missing[0]}{more}; add it, or name it in data.skip to leave it out"
        )
    return {file: by_file[file] for file in files}


def scan_class(root: Path, label: str, skip: Collection[str] = ()) -> Scanned:
    """The images below one class folder, sorted by name, without those to ``skip``.

    Raises:
        DataError: a folder cannot be listed, a file is missing or empty, or there are no images.
    """
    scan = Scanned([], {})
    pending = [label]
    while pending:
        pending += _scan_folder(root, pending.pop(), skip, scan)
    if not scan.files:
        known = ", ".join(sorted(SUFFIXES))
        raise DataError(f"class folder {root / label} holds no images ({known}); add images or remove the folder")
    scan.files.sort(key=lambda item: item[0].split("/"))
    return scan


def scan_flat(root: Path, skip: Collection[str] = ()) -> Scanned:
    """The images of a flat folder, sorted by name.

    Raises:
        DataError: as ``scan_class``, or there are subfolders.
    """
    scan = Scanned([], {})
    folders = sorted(_scan_folder(root, "", skip, scan))
    if folders:
        raise DataError(
            f"data.test_labels is for a folder without subfolders, but {root} holds folders ({folders[0]}): if they "
            "are named after the classes, leave test_labels out"
        )
    if not scan.files:
        raise DataError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}); add the images that are listed")
    scan.files.sort()
    return scan


def scan_unlabelled(root: Path, skip: Collection[str] = ()) -> Scanned:
    """All images below ``root``, sorted by name.

    Raises:
        DataError: as ``list_unlabelled``.
    """
    scan = Scanned([], {})
    pending = [""]
    while pending:
        pending += _scan_folder(root, pending.pop(), skip, scan)
    if len(scan.files) < _FEWEST:
        raise DataError(
            f"{root} holds {len(scan.files)} images ({', '.join(sorted(SUFFIXES))}); without labels at least {_FEWEST} "
            "are needed, to learn from, to validate and to test; a few thousand make a good model"
        )
    scan.files.sort(key=lambda item: item[0].split("/"))
    return scan


def image_names(root: Path, folder: str, skip: Collection[str] = ()) -> list[str]:
    """The images below a class folder (or "", of a flat folder), sorted by name; also those that cannot be read."""
    scan = Scanned([], {})
    pending = [folder]
    while pending:
        pending += _scan_folder(root, pending.pop(), skip, scan, sizes=False)
    return sorted(name for name, _ in scan.files)


def _scan_folder(root: Path, folder: str, skip: Collection[str], scan: Scanned, *, sizes: bool = True) -> list[str]:
    """Add one folder to ``scan`` and return its subfolders. As in ``os.walk``, links to folders are not followed.

    Without ``sizes`` files are taken whatever they hold, with size 0.
    """
    subfolders: list[str] = []
    count = 0
    prefix = f"{folder}/" if folder else ""
    path = os.path.join(root, folder)  # noqa: PTH118 - a million files: Path objects would take most of the time
    try:
        changed = os.stat(path).st_ctime_ns  # noqa: PTH116 - as above
        with os.scandir(path) as entries:
            for entry in entries:
                count += 1
                if is_left_out(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(prefix + entry.name)
                elif _is_image_name(entry.name) and prefix + entry.name not in skip and not entry.is_dir():
                    scan.files.append((prefix + entry.name, _size_of_entry(entry) if sizes else 0))
    except OSError as error:
        raise _listing_error(error) from error
    scan.folders[folder] = (changed, count)
    return subfolders


def _size_of_entry(entry: os.DirEntry[str]) -> int:
    try:
        size = entry.stat().st_size
    except OSError as error:
        raise BrokenImage(f"{entry.path} cannot be read ({error.strerror}); replace or remove it") from error
    if not size:
        raise BrokenImage(f"{entry.path} is empty (0 bytes); replace it, or name it in a file for data.skip")
    return size


def _is_image_name(name: str) -> bool:
    """``is_image`` for a name without folders; fast for the usual suffixes."""
    return name.endswith((".JPEG", ".jpg", ".jpeg", ".png")) or is_image(name)


def _listing_error(error: OSError) -> DataError:
    return DataError(f"folder {error.filename} cannot be listed ({error.strerror}); make it readable")
