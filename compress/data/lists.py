"""List files of a recipe: ``data.classes``, ``data.skip``, ``data.test_labels`` and ``data.val_list``."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..amounts import read_count
from ..errors import DataError
from ..files.untrusted import MOST_LIST, printable, read_text
from .partition import first_names


def read_classes(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """The classes that a file selects, sorted: one per line, or the first word of each (``n01440764 tench``).

    Raises:
        DataError: the file cannot be read, lists fewer than two classes, one twice, or one without a folder.
    """
    known, classes = frozenset(folders), list[str]()
    for line in _read_lines(path, "data.classes", "one class per line"):
        name = line if line in known else line.split()[0]
        if name not in known:
            raise DataError(
                f"data.classes {path} names {line}, which is not a class folder (there are "
                f"{first_names(sorted(known), 3)}); a class is named after its folder"
            )
        if name in classes:
            raise DataError(f"data.classes {path} names {name} twice; list every class once")
        classes.append(name)
    if len(classes) < 2:
        raise DataError(f"data.classes {path} names one class only ({classes[0]}); a classifier needs at least 2")
    return tuple(sorted(classes))


def read_skip(path: Path) -> frozenset[str]:
    """Images to leave out: one path below ``data.path`` per line.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    lines = _read_lines(path, "data.skip", "one path below data.path per line, such as train/n01440764/broken.JPEG")
    return frozenset(line.removeprefix("./") for line in lines)


@dataclass(frozen=True)
class Labels:
    """A label list for a flat folder of images; ``rows``: the words of each line."""

    path: Path
    rows: tuple[tuple[str, ...], ...]

    def of(self, files: Sequence[str], classes: Sequence[str]) -> Mapping[str, str]:
        """The class of each listed file.

        Raises:
            DataError: a file listed twice, a missing or unknown class, or a list of ILSVRC's own class numbers.
        """
        pairs = self._by_order(files) if all(len(row) == 1 for row in self.rows) else self._by_name(files)
        known = frozenset(classes)
        by_file: dict[str, str] = {}
        for file, label in pairs:
            if file in by_file:
                raise DataError(f"data.test_labels {self.path} names {file} twice; list every image once")
            by_file[file] = label if label in known else self._class_of_number(label, classes)
        return by_file

    def _by_order(self, files: Sequence[str]) -> Iterator[tuple[str, str]]:
        """A class per line, in the order of the files' names."""
        if all(row[0].isdigit() for row in self.rows):
            raise DataError(
                f"data.test_labels {self.path} holds only numbers: ILSVRC numbers its synsets in an order defined only "
                "by its development kit; give lines 'file class' or classes (wnids) instead, such as "
                "LOC_val_solution.csv or imagenet_2012_validation_synset_labels.txt"
            )
        if len(self.rows) != len(files):
            raise DataError(
                f"data.test_labels {self.path} has {len(self.rows)} lines for {len(files)} images; a list without "
                "file names has one class per image, in the order of the images' names"
            )
        return zip(files, (row[0] for row in self.rows), strict=True)

    def _by_name(self, files: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Lines 'file class'; the file with or without its suffix, or with folders before it."""
        stems = {PurePosixPath(file).stem: file for file in files}
        names = frozenset(files)
        for row in self.rows:
            if len(row) < 2:
                raise DataError(f"data.test_labels {self.path}: '{row[0]}' has no class; every line is 'file class'")
            name = PurePosixPath(row[0]).name
            file = name if name in names else stems.get(name)
            if file is not None:  # others may be skipped, or of a subset
                yield file, row[1]

    def _class_of_number(self, label: str, classes: Sequence[str]) -> str:
        """The class of an index into the sorted class folders, as in Caffe's val.txt."""
        if (index := read_count(label, len(classes) - 1, least=0)) is not None:
            return sorted(classes)[index]
        raise DataError(
            f"data.test_labels {self.path} names '{label}', which is not a class of the training images "
            f"({first_names(sorted(classes), 3)}), nor an index below {len(classes)} in this order"
        )


def read_labels(path: Path) -> Labels:
    """A list of labels: lines 'file class', with spaces, tabs or commas between; or one class per line.

    A header and further words, as in ``LOC_val_solution.csv``, are ignored.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    lines = _read_lines(path, "data.test_labels", "'file class' per line")
    comma = all("," in line for line in lines)
    rows = [tuple(next(csv.reader([line]))) for line in lines] if comma else [tuple(line.split()) for line in lines]
    words = [tuple(word for cell in row for word in cell.split()) for row in rows]
    if len(words[0]) > 1 and words[0][0].lower() in ("imageid", "file", "filename", "image", "name"):
        words = words[1:]
    if not words:
        raise DataError(f"data.test_labels {path} has only a header; add 'file class' per line")
    return Labels(path, tuple(words))


def read_val_list(path: Path) -> list[str]:
    """The names in a list of validation images, one per line; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is empty, or names an image twice.
    """
    try:
        names = [line.strip() for line in read_text(path, MOST_LIST).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"val_list {path} cannot be read ({reason}); give a text file with one path per line"
        ) from error
    names = [name.removeprefix("./") for name in names if name]
    if not names:
        raise DataError(f"val_list {path} is empty; list at least one image, or leave val_list out")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"val_list {path} names {printable(name)} {times} times; list every image once")
    return names


def check_val_list(listed: Sequence[str], names: Sequence[str], *, path: Path) -> None:
    """Raise DataError unless all listed images are training images and every class keeps at least one."""
    known = frozenset(names)
    for name in listed:
        if name not in known:
            raise DataError(
                f"val_list {path} names {printable(name)}, which is not among the training images; "
                f"paths are below train/, such as {names[0]}"
            )
    validation = frozenset(listed)
    kept = {name.split("/")[0] for name in names if name not in validation}
    lost = sorted({name.split("/")[0] for name in names} - kept)
    if lost:
        raise DataError(
            f"val_list {path} lists all images of {first_names(lost, 5)}: none are left to train on; shorten the list"
        )


def _read_lines(path: Path, what: str, wanted: str) -> list[str]:
    """Stripped lines without blank ones and ``#`` comments; ``wanted`` says in messages what a line should hold."""
    try:
        lines = [line.strip() for line in read_text(path, MOST_LIST).splitlines()]
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read ({error.strerror}); give a text file with {wanted}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path} cannot be read (it is not UTF-8); give a text file with {wanted}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{what} {path} is empty; give {wanted}, or leave the setting out")
    return lines
