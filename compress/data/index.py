"""What a folder of very many images holds, as compact arrays in the cache: listed once, then only looked after.

A name costs its bytes, not a Python object, and is read from a memory map: processes share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RunError
from ..files.atomic import atomic_path, read_json, write_json
from ..progress import SILENT, Progress
from .cache import fingerprint, remove_abandoned
from .listing import Chosen, Scanned, class_folders, flat_labels, scan_class, scan_flat
from .lists import Labels

LAYOUT = 1  # part of every place: a change of what is stored raises it
_RACY_NS = 2_000_000_000  # some file systems tell times of change to two seconds
_THREADS = min(8, (os.cpu_count() or 1) + 2)  # folders on a network: their answers take time, not work


class Names:
    """Many file names in a folder of the cache: ``names[3]``, ``len(names)``. Pickled as the folder's path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.letters: NDArray[np.uint8] = np.load(folder / "names.npy", mmap_mode="r", allow_pickle=False)
        self.ends: NDArray[np.int64] = np.load(folder / "ends.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.letters[start : int(self.ends[index])].tobytes())

    def __reduce__(self) -> tuple[type[Names], tuple[Path]]:
        return Names, (self.folder,)

    def every(self) -> list[str]:
        """All of them, as Python objects: about 100 bytes each."""
        return [self[index] for index in range(len(self))]


@dataclass(frozen=True, eq=False)
class Index:
    """Images below ``root``: ``names`` of files, ``labels`` (N,) of ``classes``; sorted by class and file.

    ``digest`` changes with names and sizes of the files, not with where they lie nor with when they were copied.
    """

    root: Path
    names: Names
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def held(self, compute: Callable[[], set[str]], **facts: Any) -> NDArray[np.bool_]:
        """Which names ``compute`` holds out, (N,); kept beside the index under what decides it, ``facts``."""
        path = self.names.folder / f"{fingerprint('held', **facts)}.npy"
        try:
            found: NDArray[np.bool_] = np.load(path, allow_pickle=False)
            if found.shape == (len(self),) and found.dtype == np.bool_:
                return found
        except (OSError, ValueError, EOFError):  # not computed yet, or damaged
            pass
        names = compute()
        found = np.fromiter((name in names for name in self.names.every()), dtype=np.bool_, count=len(self))
        _save(path, found)
        return found


def open_index(
    root: Path,
    cache_dir: Path,
    *,
    chosen: Chosen,
    labels: Labels | None = None,
    classes: Sequence[str] = (),
    what: str = "images",
    progress: Progress = SILENT,
) -> Index:
    """The index of ``root``, from the cache while its folders are unchanged, else made anew.

    A folder changes when files are added, removed or renamed; what is written over a file is not looked for.

    Args:
        labels: for a flat folder: its list; ``classes`` are then those of the training images.
        what: the split, for progress.

    Raises:
        DataError: as ``list_images`` and ``list_flat``.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    asked: dict[str, Any] = {"classes": chosen.classes, "skip": sorted(chosen.skipped(root))}
    if labels is not None:
        asked |= {"labels": labels.rows, "of": list(classes)}
    place = cache_dir / fingerprint("index", version=LAYOUT, path=root.resolve(), **asked)
    found = read_index(place, root)
    if found is None:
        _build(place, root, chosen, labels, classes, what, progress)
        found = read_index(place, root)
    if found is None:
        raise RunError(f"{root} changes while it is listed; let what copies or removes images finish, then run again")
    return found


def read_index(place: Path, root: Path) -> Index | None:
    """What a folder of the cache holds; None when it is absent or damaged, or when folders of images have changed."""
    try:
        meta = read_json(place / "meta.json")
        if not _unchanged(root, meta["folders"], int(meta["listed_ns"])):
            return None
        names = Names(place)
        labels: NDArray[np.int64] = np.load(place / "labels.npy", allow_pickle=False)
        classes, digest, content = tuple(meta["classes"]), str(meta["digest"]), str(meta["content"])
    except PermissionError as error:
        raise RunError(f"cannot read {place}: {error.strerror}; make it readable or choose another cache") from error
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError, TypeError):
        return None
    if not len(names) == len(labels) > 0 or _digest(names.letters, names.ends, labels) != content:
        return None
    return Index(root, names, labels, classes, digest)


def _unchanged(root: Path, folders: dict[str, list[int]], listed_ns: int) -> bool:
    """By the time of change of every folder; where that is too close to the listing to tell, by counting too."""
    for folder, (changed, count) in folders.items():
        place = os.path.join(root, folder)  # noqa: PTH118 - thousands of folders at every start
        try:
            if os.stat(place).st_mtime_ns != changed:  # noqa: PTH116 - as above
                return False
            if changed > listed_ns - _RACY_NS:
                with os.scandir(place) as entries:
                    if sum(1 for _ in entries) != count:
                        return False
        except OSError:
            return False
    return True


def _build(
    place: Path,
    root: Path,
    chosen: Chosen,
    labels: Labels | None,
    classes: Sequence[str],
    what: str,
    progress: Progress,
) -> None:
    listed_ns = time.time_ns()
    if labels is None:
        skip = chosen.skipped(root)
        wanted = class_folders(root, chosen.classes)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="index") as pool:
            parts = pool.map(lambda label: scan_class(root, label, skip), wanted)
            scans = list(progress.track(parts, f"index {what}", total=len(wanted), unit="folders"))
        numbers = [np.full(len(scan.files), label, dtype=np.int64) for label, scan in enumerate(scans)]
        found = np.concatenate(numbers)
        top = Scanned([], {"": _folder_facts(root)})
        _write(place, [*scans, top], found, wanted, listed_ns)
        return
    scan = scan_flat(root, chosen.skipped(root))
    by_file = flat_labels(root, [name for name, _ in scan.files], labels, classes)
    kept = sorted(classes if chosen.classes is None else chosen.classes)
    number = {name: label for label, name in enumerate(kept)}
    files = sorted(
        (item for item in scan.files if by_file[item[0]] in number), key=lambda item: (by_file[item[0]], item[0])
    )
    if not files:
        raise DataError(f"{labels.path} gives none of the images in {root} a class of the training images")
    found = np.array([number[by_file[name]] for name, _ in files], dtype=np.int64)
    _write(place, [Scanned(files, scan.folders)], found, kept, listed_ns)


def _folder_facts(root: Path) -> tuple[int, int]:
    with os.scandir(root) as entries:
        count = sum(1 for _ in entries)
    return root.stat().st_mtime_ns, count


def _write(
    place: Path, scans: Iterable[Scanned], labels: NDArray[np.int64], classes: Sequence[str], listed_ns: int
) -> None:
    encoded = [(os.fsencode(name), size) for scan in scans for name, size in scan.files]
    letters = np.frombuffer(b"".join(name for name, _ in encoded), dtype=np.uint8)
    ends = np.cumsum([len(name) for name, _ in encoded], dtype=np.int64)
    sizes = np.array([size for _, size in encoded], dtype=np.int64)
    remove_abandoned(place.parent)
    folder = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        for name, array in (("names", letters), ("ends", ends), ("labels", labels)):
            _save(folder / f"{name}.npy", array)
        folders = {name: list(facts) for scan in scans for name, facts in scan.folders.items()}
        meta = {
            "layout": LAYOUT,
            "images": len(labels),
            "bytes": int(sizes.sum()),
            "digest": _digest(letters, ends, sizes),
            "content": _digest(letters, ends, labels),
            "listed_ns": listed_ns,
            "classes": list(classes),
            "folders": folders,
        }
        write_json(folder / "meta.json", meta)
        _replace(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, place: Path) -> None:
    """Put a folder in the place of an older one; who reads the old one at this moment keeps its open files."""
    old = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.old.part")
    with contextlib.suppress(FileNotFoundError):
        place.rename(old)
    try:
        folder.rename(place)
    except OSError:  # another process has just put its own there: the same folders, listed at the same time
        if not (place / "meta.json").is_file():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array)


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
