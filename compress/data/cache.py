"""Whether the files of a cache folder are what was written into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import Damaged, RunError
from ..files.atomic import atomic_path, make_folder, sync_folder, write_errors
from ..files.locks import NoLocks, locked, try_lock
from ..files.sealed import find_damage, read_sealed, sha256_of_file, write_sealed
from ..progress import SILENT, Progress
from .decode import Decoded
from .images import ImageSet

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


LAYOUT = 1  # part of every fingerprint: a change of what is stored or how it is decoded raises it
_META, _LOCK = "meta.json", "lock"


class CachedImages(NamedTuple):
    """The images of one split, sorted by name, and their names ``<class>/<file>``."""

    images: ImageSet
    names: tuple[str, ...]


class Source(Protocol):
    """Where images come from, split by split; nothing is read before it is asked for."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has: ``train``, ``test``, perhaps ``val``."""
        ...

    @property
    def one_pass(self) -> bool:
        """Whether reading one split costs as much as reading all, so that all are decoded together."""
        ...

    def fingerprint(self, split: str) -> str:
        """Changes whenever what would be decoded changes."""
        ...

    def count(self, splits: Collection[str]) -> int | None:
        """How many images ``stream`` will yield, if that is known."""
        ...

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        """Every image of ``splits``; raises DataError where they cannot be used, at the latest at the end."""
        ...


def fingerprint(split: str, **facts: Any) -> str:
    """A folder name for a split that ``facts`` describe completely."""
    text = json.dumps({"layout": LAYOUT, "split": split, **facts}, sort_keys=True, default=str)
    return f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def load(source: Source, split: str, cache_dir: Path, progress: Progress) -> CachedImages:
    """The images of a split, from the cache or decoded into it.

    Raises:
        DataError: the images cannot be used; nothing of them is kept.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    place = cache_dir / source.fingerprint(split)
    found = read(place, progress)
    if found is None:
        places = {split: place}
        if source.one_pass:
            others = {other: cache_dir / source.fingerprint(other) for other in source.splits if other != split}
            places |= {other: path for other, path in others.items() if not path.is_dir()}
        what = "decode " + " and ".join(places)
        total = source.count(places)
        _fill(places, progress.track(source.stream(places), what, total=total, unit="img"))
        found = read(place, progress)
    if found is None:
        raise RunError(f"{place} vanished while it was used; run again, and keep others from cleaning {cache_dir}")
    return found


def read(place: Path, progress: Progress = SILENT) -> CachedImages | None:
    """What a cache folder holds; None when it is absent or damaged, which is said (it is then decoded again)."""
    try:
        meta = read_sealed(place / _META)
        check_files(place, meta["sha256"])
        # A plain view of the map: np.memmap's own indexing is slower and its copies stay memmaps in name.
        images = np.asarray(np.load(place / "images.npy", mmap_mode="r", allow_pickle=False))
        labels = np.load(place / "labels.npy", allow_pickle=False)
        names, classes = tuple(meta["names"]), tuple(meta["classes"])
    except PermissionError as error:
        raise RunError(f"cannot read {place}: {error.strerror}; make it readable or choose another --out") from error
    except Damaged as damage:
        progress.note(f"{damage}: the images are decoded again")
        return None
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError):
        return None
    if not len(images) == len(labels) == len(names):
        return None
    return _sorted(ImageSet(images, labels, classes), names)


def _sorted(images: ImageSet, names: tuple[str, ...]) -> CachedImages:
    """By class and file: an archive and the folder it was made from then split alike, whatever its order."""
    order = sorted(range(len(names)), key=lambda i: names[i].split("/"))
    if order == list(range(len(names))):
        return CachedImages(images, names)
    return CachedImages(images.subset(order), tuple(names[i] for i in order))


def _fill(places: Mapping[str, Path], decoded: Iterable[Decoded]) -> None:
    """Write each split to its place; nothing is published before the last image of all is written."""
    for parent in {place.parent for place in places.values()}:
        remove_abandoned(parent)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_building(place)) for split, place in places.items()}
        for split, name, image in decoded:
            writers[split].add(name, image)


@dataclass
class _Writer:
    """Appends images to an open .npy whose length is known only at the end."""

    file: BinaryIO
    names: list[str]
    shape: tuple[int, ...] = ()

    def add(self, name: str, image: NDArray[np.uint8]) -> None:
        if not self.names:
            self.shape = image.shape
            self._header(0)
        assert image.shape == self.shape, "sources yield images of one size"
        self.file.write(image.tobytes())
        self.names.append(name)

    def finish(self) -> None:
        assert self.names, "sources refuse to be empty"
        end = self.file.tell()
        self.file.seek(0)
        self._header(len(self.names))  # numpy pads its header so that the first axis can grow in place
        expected = self.file.tell() + len(self.names) * int(np.prod(self.shape))
        assert end == expected, "the header kept its length"

    def _header(self, count: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        npy.write_array_header_1_0(self.file, header)


@contextmanager
def _building(place: Path) -> Iterator[_Writer]:
    """A private folder beside ``place`` that is renamed to it when the block ends well, and else removed."""
    folder = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    names: list[str] = []
    with _private(folder):
        with atomic_path(folder / "images.npy") as part, part.open("wb") as file:
            writer = _Writer(file, names)
            yield writer
            writer.finish()
        classes = sorted({name.split("/")[0] for name in names})
        number = {name: label for label, name in enumerate(classes)}
        labels = np.array([number[name.split("/")[0]] for name in names], dtype=np.int64)
        with atomic_path(folder / "labels.npy") as part, part.open("wb") as file:
            np.save(file, labels)
        sums = sums_of(folder, ("images.npy", "labels.npy"))
        write_sealed(folder / _META, {"layout": LAYOUT, "classes": classes, "names": names, "sha256": sums})
        _publish(folder, place)
        (place / _LOCK).unlink(missing_ok=True)


def _publish(folder: Path, place: Path) -> None:
    with locked(place.parent):  # two that find the same damaged folder would remove each other's new one
        try:
            folder.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process finished the same images first: keep its folder, unless it is a damaged one.
            if read(place) is None:
                shutil.rmtree(place)
                folder.rename(place)
        sync_folder(place.parent)


@contextmanager
def _private(folder: Path) -> Iterator[None]:
    """A folder that is removed after the block, if it is still there, and that nobody else removes before.

    Its lock, not its age, says whether its process lives: a clock may jump. The file is locked before it gets its name.
    """
    lock = folder.with_suffix(".lock")
    try:
        with write_errors(folder):
            make_folder(folder)
            file = lock.open("xb", buffering=0)
        with file:
            with suppress(NoLocks):  # nobody then removes what others left
                try_lock(file)
                lock.rename(folder / _LOCK)
            yield
    finally:
        lock.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(cache_dir: Path) -> None:
    """Delete what a killed process left behind; nothing reads it, but it takes room."""
    for folder in cache_dir.glob(".*.part"):
        with suppress(OSError, NoLocks), (folder / _LOCK).open("r+b") as file:  # OSError: its owner just removes it
            if try_lock(file):
                shutil.rmtree(folder, ignore_errors=True)
