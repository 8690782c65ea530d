"""Files that name classes, labels and images: what recipes give as ``data.classes``, ``test_labels`` and ``skip``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import DataError
from ..files.untrusted import MOST_LIST, read_text


def read_classes(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """The classes that a file names, sorted: one per line, or the first word of each (``n01440764 tench``).

    Raises:
        DataError: the file cannot be read, or names none, one alone, one twice, or one without a folder.
    """
    known, found = frozenset(folders), list[str]()
    for line in _lines(path, "data.classes", "one class per line"):
        name = line if line in known else line.split()[0]
        if name not in known:
            raise DataError(
                f"data.classes {path} names {line}, which is no class folder (there are {_some(sorted(known))}); "
                "a class is called what its folder is called"
            )
        if name in found:
            raise DataError(f"data.classes {path} names {name} twice; list every class once")
        found.append(name)
    if len(found) < 2:
        raise DataError(f"data.classes {path} names one class only ({found[0]}); a classifier needs at least 2")
    return tuple(sorted(found))


def read_skip(path: Path) -> frozenset[str]:
    """Images to leave out: one path below ``data.path`` per line.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    lines = _lines(path, "data.skip", "one path below data.path per line, such as train/n01440764/broken.JPEG")
    return frozenset(line.removeprefix("./") for line in lines)


@dataclass(frozen=True)
class Labels:
    """What a list says of the images of a flat folder; ``rows``: the words of each of its lines."""

    path: Path
    rows: tuple[tuple[str, ...], ...]

    def of(self, files: Sequence[str], classes: Sequence[str]) -> Mapping[str, str]:
        """The class of each file that the list names.

        Raises:
            DataError: a file that is not there, a class that is unknown, or numbers that nothing explains.
        """
        pairs = self._by_order(files) if all(len(row) == 1 for row in self.rows) else self._by_name(files)
        known = frozenset(classes)
        found: dict[str, str] = {}
        for file, said in pairs:
            if file in found:
                raise DataError(f"data.test_labels {self.path} names {file} twice; list every image once")
            found[file] = said if said in known else self._numbered(said, classes)
        return found

    def _by_order(self, files: Sequence[str]) -> Iterator[tuple[str, str]]:
        """A class per line, in the order of the files' names."""
        if all(row[0].isdigit() for row in self.rows):
            raise DataError(
                f"data.test_labels {self.path} holds numbers alone: ILSVRC's count its synsets in an order of their "
                "own, which only its development kit tells; give lines 'file class' or classes (wnids) instead, such "
                "as LOC_val_solution.csv or imagenet_2012_validation_synset_labels.txt"
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
        there = frozenset(files)
        for row in self.rows:
            if len(row) < 2:
                raise DataError(f"data.test_labels {self.path}: '{row[0]}' has no class; every line is 'file class'")
            name = PurePosixPath(row[0]).name
            file = name if name in there else stems.get(name)
            if file is not None:  # others may be skipped, or of a subset
                yield file, row[1]

    def _numbered(self, said: str, classes: Sequence[str]) -> str:
        """The class of a number that counts the sorted class folders from 0, as Caffe's val.txt does."""
        if said.isdigit() and int(said) < len(classes):
            return sorted(classes)[int(said)]
        raise DataError(
            f"data.test_labels {self.path} says '{said}', which is no class of the training images "
            f"({_some(sorted(classes))}), nor a number below {len(classes)} that counts them in this order"
        )


def read_labels(path: Path) -> Labels:
    """A list of labels: lines 'file class', with spaces, tabs or commas between; or one class per line.

    A header and further words, as in ``LOC_val_solution.csv``, are passed over.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    lines = _lines(path, "data.test_labels", "'file class' per line")
    comma = all("," in line for line in lines)
    rows = [tuple(next(csv.reader([line]))) for line in lines] if comma else [tuple(line.split()) for line in lines]
    words = [tuple(word for cell in row for word in cell.split()) for row in rows]
    if len(words[0]) > 1 and words[0][0].lower() in ("imageid", "file", "filename", "image", "name"):
        words = words[1:]
    if not words:
        raise DataError(f"data.test_labels {path} has a header alone; add 'file class' per line")
    return Labels(path, tuple(words))


def _lines(path: Path, what: str, wanted: str) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(path, MOST_LIST).splitlines()]
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read ({error.strerror}); give a text file with {wanted}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path} cannot be read (it is no UTF-8); give a text file with {wanted}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{what} {path} is empty; give {wanted}, or leave the setting out")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
