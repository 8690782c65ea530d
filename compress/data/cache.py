"""Cache of decoded images on disk: one folder of arrays per split, checksummed and published atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import Damaged, RunError
from ..files.atomic import atomic_path, make_folder, sync_folder, write_errors
from ..files.locks import NoLocks, locked, try_lock
from ..files.sealed import find_damage, read_sealed, sha256_of_file, write_sealed
from ..files.untrusted import as_text
from ..progress import SILENT, Progress
from .decode import Decoded
from .images import DIGEST_BYTES, ImageSet, pixel_digests

LAYOUT = 2  # part of every fingerprint; raised when what is stored or how it is decoded changes
ALWAYS_VERIFIED = 2 << 30
"""Bytes: files up to this size are checksummed whenever they are opened (about a second per gigabyte)."""
_DIGESTS = "digests.npy"
_META, _LOCK, _VERIFIED = "meta.json", "lock", "verified.json"


class CachedImages(NamedTuple):
    """The images of one split, sorted by name, and their names ``<class>/<file>``."""

    images: ImageSet
    names: tuple[str, ...]


class Source(Protocol):
    """Protocol: images to decode, per split (folders, archives, CIFAR batches, digits); read lazily."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits: ``train``, ``test``, perhaps ``val``."""
        ...

    @property
    def one_pass(self) -> bool:
        """Whether reading one split costs as much as reading all, so that all are decoded together."""
        ...

    def fingerprint(self, split: str) -> str:
        """Cache key: changes when the decoded images would change."""
        ...

    def count(self, splits: Collection[str]) -> int | None:
        """Number of images that ``stream`` will yield, if known."""
        ...

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        """All images of ``splits``; raises DataError for unusable ones, at the latest at the end."""
        ...


def fingerprint(split: str, **facts: Any) -> str:
    """Folder name of a split in the cache, a hash of ``facts`` that determine its content."""
    text = json.dumps({"layout": LAYOUT, "split": split, **facts}, sort_keys=True, default=str)
    return f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def load_cached(source: Source, split: str, cache_dir: Path, progress: Progress) -> CachedImages:
    """The images of a split, from the cache or decoded into it.

    Raises:
        DataError: the images cannot be used; none of them are cached.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    folder = cache_dir / source.fingerprint(split)
    cached = read_cached(folder, progress)
    if cached is None:
        folders = {split: folder}
        if source.one_pass:
            others = {other: cache_dir / source.fingerprint(other) for other in source.splits if other != split}
            folders |= {other: path for other, path in others.items() if not path.is_dir()}
        what = "decode " + " and ".join(folders)
        total = source.count(folders)
        _fill_cache(folders, progress.track(source.stream(folders), what, total=total, unit="img"))
        cached = read_cached(folder, progress)
    if cached is None:
        raise RunError(f"{folder} vanished while it was used; run again, and keep others from cleaning {cache_dir}")
    return cached


def read_cached(folder: Path, progress: Progress = SILENT) -> CachedImages | None:
    """The images in a cache folder; None if it is absent or damaged (damage is reported to ``progress``)."""
    try:
        meta = read_sealed(folder / _META)
        _verify_files(folder, meta["sha256"])
        # A plain view of the map: np.memmap's own indexing is slower and its copies stay memmaps in name.
        images = np.asarray(np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False))
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        digests = np.load(folder / _DIGESTS, allow_pickle=False)
        names, classes = tuple(meta["names"]), tuple(map(as_text, meta["classes"]))
    except PermissionError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}; make it readable or choose another --out") from error
    except Damaged as damage:
        progress.note(f"{damage}: the images are decoded again")
        return None
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError):
        return None
    if not len(images) == len(labels) == len(names) == len(digests):
        return None
    return _sort_by_name(ImageSet(images, labels, classes, lambda: digests), names)


def remove_abandoned(cache_dir: Path) -> None:
    """Delete temporary folders of killed processes, which only take up space."""
    for folder in cache_dir.glob(".*.part"):
        with suppress(OSError, NoLocks), (folder / _LOCK).open("r+b") as file:  # OSError: its owner is removing it
            if try_lock(file):
                shutil.rmtree(folder, ignore_errors=True)


def _sort_by_name(images: ImageSet, names: tuple[str, ...]) -> CachedImages:
    """Sorted by class and file, so that an archive and the folder it was made from are split alike."""
    order = sorted(range(len(names)), key=lambda i: names[i].split("/"))
    if order == list(range(len(names))):
        return CachedImages(images, names)
    return CachedImages(images.subset(order), tuple(names[i] for i in order))


def _fill_cache(folders: Mapping[str, Path], decoded: Iterable[Decoded]) -> None:
    """Write each split to its folder; all are published once the last image is written."""
    for parent in {folder.parent for folder in folders.values()}:
        remove_abandoned(parent)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_new_cache_folder(folder)) for split, folder in folders.items()}
        for split, name, image in decoded:
            writers[split].add(name, image)


@dataclass
class _NpyAppender:
    """Appends images to an open .npy file whose length is known only at the end."""

    file: BinaryIO
    names: list[str]
    digests: bytearray = field(default_factory=bytearray)
    shape: tuple[int, ...] = ()

    def add(self, name: str, image: NDArray[np.uint8]) -> None:
        if not self.names:
            self.shape = image.shape
            self._write_header(0)
        assert image.shape == self.shape, "sources yield images of one size"
        self.file.write(image.tobytes())
        self.digests += pixel_digests(image[None]).tobytes()
        self.names.append(name)

    def finish(self) -> None:
        assert self.names, "sources refuse to be empty"
        end = self.file.tell()
        self.file.seek(0)
        self._write_header(len(self.names))  # numpy pads its header so that the first axis can grow in place
        expected = self.file.tell() + len(self.names) * int(np.prod(self.shape))
        assert end == expected, "the header kept its length"

    def _write_header(self, count: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        npy.write_array_header_1_0(self.file, header)


@contextmanager
def _new_cache_folder(target: Path) -> Iterator[_NpyAppender]:
    """A writer into a temporary folder, which is renamed to ``target`` if the block succeeds, and else removed."""
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    names: list[str] = []
    with _locked_folder(folder):
        with atomic_path(folder / "images.npy") as part, part.open("wb") as file:
            writer = _NpyAppender(file, names)
            yield writer
            writer.finish()
        classes = sorted({name.split("/")[0] for name in names})
        number = {name: label for label, name in enumerate(classes)}
        labels = np.array([number[name.split("/")[0]] for name in names], dtype=np.int64)
        with atomic_path(folder / "labels.npy") as part, part.open("wb") as file:
            np.save(file, labels)
        with atomic_path(folder / _DIGESTS) as part, part.open("wb") as file:
            np.save(file, np.frombuffer(writer.digests, dtype=np.uint8).reshape(len(names), DIGEST_BYTES))
        sums = _sha256_of_files(folder, ("images.npy", "labels.npy", _DIGESTS))
        write_sealed(folder / _META, {"layout": LAYOUT, "classes": classes, "names": names, "sha256": sums})
        _publish(folder, target)
        (target / _LOCK).unlink(missing_ok=True)


def _publish(folder: Path, target: Path) -> None:
    with locked(target.parent):  # two processes that find the same damaged folder would remove each other's new one
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process finished the same images first: keep its folder, unless it is damaged.
            if read_cached(target) is None:
                shutil.rmtree(target)
                folder.rename(target)
        sync_folder(target.parent)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """A new folder with a lock that marks it as in use; if it was not renamed, it is removed after the block.

    A lock, not an age, because a clock may jump. The lock file is locked before it gets its final name.
    """
    lock = folder.with_suffix(".lock")
    try:
        with write_errors(folder):
            make_folder(folder)
            file = lock.open("xb", buffering=0)
        with file:
            with suppress(NoLocks):  # then ``remove_abandoned`` removes nothing
                try_lock(file)
                lock.rename(folder / _LOCK)
            yield
    finally:
        lock.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _sha256_of_files(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of files in ``folder``, by name."""
    return {name: sha256_of_file(folder / name) for name in names}


def _verify_files(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare files in ``folder`` with their checksums.

    A file of more than ``ALWAYS_VERIFIED`` bytes is read once, and again when its size or modification time changes.

    Raises:
        Damaged: a file differs from what was written; it is named.
    """
    for name, expected in sums.items():
        path = folder / name
        large = path.is_file() and path.stat().st_size > ALWAYS_VERIFIED
        if large and _read_verified(folder).get(name) == _file_stamp(path, expected):
            continue
        if (damage := find_damage(path, sha256=expected)) is not None:
            raise damage
        if large:
            _write_verified(folder, name, _file_stamp(path, expected))


def _file_stamp(path: Path, sha256: str) -> list[str]:
    stat = path.stat()
    return [sha256, *map(str, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))]


def _read_verified(folder: Path) -> dict[str, list[str]]:
    try:
        return read_sealed(folder / _VERIFIED)
    except (FileNotFoundError, Damaged):
        return {}


def _write_verified(folder: Path, name: str, stamp: list[str]) -> None:
    try:
        write_sealed(folder / _VERIFIED, {**_read_verified(folder), name: stamp})
    except (RunError, OSError):  # a full or read-only disk: the file is checksummed again next time
        return
