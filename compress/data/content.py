"""Content of image sets as digests: of decoded pixels in the cache, of whole files where images stay files.

They do not depend on where files lie, nor on their modification times.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenImage
from ..files.atomic import atomic_path
from ..progress import SILENT, Progress
from .cache import fingerprint
from .images import DIGEST_BYTES, ImageSet
from .index import FileIndex

_LAYOUT = 2  # part of the path; raised when what is stored changes
_MTIME_RESOLUTION_NS = 2_000_000_000  # the coarsest modification times of file systems
_UNKNOWN = -1  # a modification time that no file has
_READ_BYTES = 1 << 20
_THREADS = min(8, (os.cpu_count() or 1) + 2)
_Known = tuple[NDArray[np.int64], NDArray[np.uint8]]


def content_key(*sets: ImageSet) -> str:
    """Digest of image sets: class names, image shape, labels, and the content of every image."""
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr((images.classes, images.images.shape)).encode())
        digest.update(np.ascontiguousarray(images.labels).tobytes())
        digest.update(np.ascontiguousarray(images.content()).tobytes())
    return digest.hexdigest()


def digests_of_files(index: FileIndex, cache_dir: Path, progress: Progress = SILENT) -> NDArray[np.uint8]:
    """(N, 16) digests of the content of the files of ``index``.

    They are kept in ``cache_dir``; only files whose size or times changed are read again.

    Raises:
        DataError: a file cannot be read.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    path = cache_dir / f"{fingerprint('contents', version=_LAYOUT, path=index.root.resolve())}.npz"
    names = index.names.to_list()
    looked_ns = time.time_ns()
    found = (value for name in names for value in _stamp(f"{index.root}/{name}"))
    stamps = np.fromiter(found, dtype=np.int64, count=3 * len(names)).reshape(len(names), 3)
    known, digests = _read_known(path, index, names)
    changed = np.flatnonzero((known != stamps).any(axis=1))
    if not len(changed):
        return digests
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="content") as pool:
        read = pool.map(lambda row: _file_digest(f"{index.root}/{names[row]}"), changed.tolist())
        tracked = progress.track(read, "read images", total=len(changed), unit="img")
        for row, digest in zip(changed, tracked, strict=True):
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
    # A file written a moment ago may be written once more without another modification time.
    stamps[stamps[:, 1:].max(axis=1) > looked_ns - _MTIME_RESOLUTION_NS, 1] = _UNKNOWN
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, letters=index.names.letters, ends=index.names.ends, stamps=stamps, digests=digests)
    return digests


def _read_known(path: Path, index: FileIndex, names: list[str]) -> _Known:
    """Stamps (N, 3) and digests (N, 16) of ``names`` from an earlier call; files that it did not see have no stamp."""
    stamps = np.full((len(names), 3), _UNKNOWN, dtype=np.int64)
    digests = np.zeros((len(names), DIGEST_BYTES), dtype=np.uint8)
    try:
        with np.load(path, allow_pickle=False) as stored:
            letters, ends, old_stamps, old_digests = (stored[key] for key in ("letters", "ends", "stamps", "digests"))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):  # not read yet, or damaged
        return stamps, digests
    if not len(ends) == len(old_stamps) == len(old_digests):
        return stamps, digests
    if np.array_equal(letters, index.names.letters) and np.array_equal(ends, index.names.ends):
        return old_stamps, old_digests
    text, starts = letters.tobytes(), [0, *ends[:-1].tolist()]
    row_of = {text[start:end]: row for row, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True))}
    old = np.array([row_of.get(os.fsencode(name), -1) for name in names], dtype=np.int64)
    seen = old >= 0
    stamps[seen], digests[seen] = old_stamps[old[seen]], old_digests[old[seen]]
    return stamps, digests


def _stamp(path: str) -> tuple[int, int, int]:
    """Size in bytes, and times in ns of the last change of the content, which a program may set, and of the file."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - a million files: Path objects would take most of the time
    except OSError as error:
        raise _unreadable(path, error) from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _file_digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.digest()


def _unreadable(path: str, error: OSError) -> BrokenImage:
    return BrokenImage(f"{path} cannot be read ({error.strerror}); replace or remove it")
