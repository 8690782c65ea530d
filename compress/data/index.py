"""Index of a large image folder: names, labels and sizes as arrays in the cache, rebuilt when folders change.

Names are bytes in a memory map, which processes share, not Python objects.
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
from ..files.untrusted import as_text
from ..progress import SILENT, Progress
from .cache import fingerprint, remove_abandoned
from .listing import (
    UNLABELLED,
    FolderFilter,
    Scanned,
    class_folders,
    flat_labels,
    scan_class,
    scan_flat,
    scan_unlabelled,
)
from .lists import Labels

LAYOUT = 2  # part of every path; raised when what is stored changes
_MTIME_RESOLUTION_NS = 2_000_000_000  # the coarsest modification times of file systems
_THREADS = min(8, (os.cpu_count() or 1) + 2)  # more than cores: listing network folders is latency-bound


class FileNames:
    """A memory-mapped sequence of file names: ``names[3]``, ``len(names)``. Pickled as its folder's path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.letters: NDArray[np.uint8] = np.load(folder / "names.npy", mmap_mode="r", allow_pickle=False)
        self.ends: NDArray[np.int64] = np.load(folder / "ends.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.letters[start : int(self.ends[index])].tobytes())

    def __reduce__(self) -> tuple[type[FileNames], tuple[Path]]:
        return FileNames, (self.folder,)

    def to_list(self) -> list[str]:
        """All names as Python strings: about 100 bytes each."""
        return [self[index] for index in range(len(self))]


@dataclass(frozen=True, eq=False)
class FileIndex:
    """Image files below ``root``: their ``names`` and ``labels`` (N,) into ``classes``, sorted by class and file."""

    root: Path
    names: FileNames
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def holdout_names(self) -> list[str]:
        """``<class>/<file>`` of every image, which ``hold_out`` draws from; of one class where there are no labels."""
        names = self.names.to_list()
        return [f"{UNLABELLED}/{name}" for name in names] if self.classes == (UNLABELLED,) else names

    def holdout_mask(self, compute: Callable[[], set[str]], **facts: Any) -> NDArray[np.bool_]:
        """Mask (N,) of the names that ``compute`` returns, cached beside the index under ``facts``, its inputs."""
        path = self.names.folder / f"{fingerprint('held', **facts)}.npy"
        try:
            cached: NDArray[np.bool_] = np.load(path, allow_pickle=False)
            if cached.shape == (len(self),) and cached.dtype == np.bool_:
                return cached
        except (OSError, ValueError, EOFError):  # not computed yet, or damaged
            pass
        names = compute()
        mask = np.fromiter((name in names for name in self.holdout_names()), dtype=np.bool_, count=len(self))
        _save_array(path, mask)
        return mask


def open_index(
    root: Path,
    cache_dir: Path,
    *,
    selection: FolderFilter,
    labels: Labels | None = None,
    classes: Sequence[str] = (),
    unlabelled: bool = False,
    what: str = "images",
    progress: Progress = SILENT,
) -> FileIndex:
    """The index of ``root``, from the cache while its folders are unchanged, else rebuilt.

    A folder changes when files are added, removed or renamed; overwriting a file is not detected here, but by
    ``digests_of_files``.

    Args:
        labels: the label list of a flat folder; ``classes`` are then those of the training images.
        unlabelled: all images below ``root``, as images of one class.
        what: the split, shown as progress.

    Raises:
        DataError: as ``list_images`` and ``list_flat``.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    facts: dict[str, Any] = {"classes": selection.classes, "skip": sorted(selection.skipped_below(root))}
    if unlabelled:
        facts["unlabelled"] = True
    if labels is not None:
        facts |= {"labels": labels.rows, "of": list(classes)}
    folder = cache_dir / fingerprint("index", version=LAYOUT, path=root.resolve(), **facts)
    index = read_index(folder, root)
    if index is None:
        if unlabelled:
            _index_unlabelled(folder, root, selection)
        else:
            _build_index(folder, root, selection, labels, classes, what, progress)
        index = read_index(folder, root)
    if index is None:
        raise RunError(f"{root} changed while it was listed; let what copies or removes images finish, then run again")
    return index


def read_index(folder: Path, root: Path) -> FileIndex | None:
    """The index in a cache folder; None if it is absent, damaged or out of date."""
    try:
        meta = read_json(folder / "meta.json", file_names=True)
        if not _is_current(root, meta["folders"], int(meta["listed_ns"])):
            return None
        names = FileNames(folder)
        labels: NDArray[np.int64] = np.load(folder / "labels.npy", allow_pickle=False)
        classes, content = tuple(map(as_text, meta["classes"])), str(meta["content"])
    except PermissionError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}; make it readable or choose another cache") from error
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError, TypeError):
        return None
    if not len(names) == len(labels) > 0 or _digest_of_arrays(names.letters, names.ends, labels) != content:
        return None
    return FileIndex(root, names, labels, classes)


def _is_current(root: Path, folders: dict[str, list[int]], listed_ns: int) -> bool:
    """Compare times of the last change of all folders, and entry counts of those changed just before they were listed.

    Not the time that copying tools restore.
    """
    for folder, (changed, count) in folders.items():
        path = os.path.join(root, folder)  # noqa: PTH118 - thousands of folders at every start
        try:
            if os.stat(path).st_ctime_ns != changed:  # noqa: PTH116 - as above
                return False
            if changed > listed_ns - _MTIME_RESOLUTION_NS:
                with os.scandir(path) as entries:
                    if sum(1 for _ in entries) != count:
                        return False
        except OSError:
            return False
    return True


def _build_index(
    target: Path,
    root: Path,
    selection: FolderFilter,
    labels: Labels | None,
    classes: Sequence[str],
    what: str,
    progress: Progress,
) -> None:
    listed_ns = time.time_ns()
    if labels is None:
        skip = selection.skipped_below(root)
        kept = class_folders(root, selection.classes)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="index") as pool:
            parts = pool.map(lambda label: scan_class(root, label, skip), kept)
            scans = list(progress.track(parts, f"index {what}", total=len(kept), unit="folders"))
        numbers = [np.full(len(scan.files), label, dtype=np.int64) for label, scan in enumerate(scans)]
        top = Scanned([], {"": _folder_facts(root)})
        _write_index(target, [*scans, top], np.concatenate(numbers), kept, listed_ns)
        return
    scan = scan_flat(root, selection.skipped_below(root))
    by_file = flat_labels(root, [name for name, _ in scan.files], labels, classes)
    kept = sorted(classes if selection.classes is None else selection.classes)
    number = {name: label for label, name in enumerate(kept)}
    files = sorted(
        (item for item in scan.files if by_file[item[0]] in number), key=lambda item: (by_file[item[0]], item[0])
    )
    if not files:
        raise DataError(f"{labels.path} gives none of the images in {root} a class of the training images")
    numbered = np.array([number[by_file[name]] for name, _ in files], dtype=np.int64)
    _write_index(target, [Scanned(files, scan.folders)], numbered, kept, listed_ns)


def _index_unlabelled(target: Path, root: Path, selection: FolderFilter) -> None:
    listed_ns = time.time_ns()
    scan = scan_unlabelled(root, selection.skipped_below(root))
    _write_index(target, [scan], np.zeros(len(scan.files), dtype=np.int64), [UNLABELLED], listed_ns)


def _folder_facts(root: Path) -> tuple[int, int]:
    with os.scandir(root) as entries:
        count = sum(1 for _ in entries)
    return root.stat().st_ctime_ns, count


def _write_index(
    target: Path, scans: Iterable[Scanned], labels: NDArray[np.int64], classes: Sequence[str], listed_ns: int
) -> None:
    encoded = [(os.fsencode(name), size) for scan in scans for name, size in scan.files]
    letters = np.frombuffer(b"".join(name for name, _ in encoded), dtype=np.uint8)
    ends = np.cumsum([len(name) for name, _ in encoded], dtype=np.int64)
    sizes = np.array([size for _, size in encoded], dtype=np.int64)
    remove_abandoned(target.parent)
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        for name, array in (("names", letters), ("ends", ends), ("labels", labels)):
            _save_array(folder / f"{name}.npy", array)
        folders = {name: list(facts) for scan in scans for name, facts in scan.folders.items()}
        meta = {
            "layout": LAYOUT,
            "images": len(labels),
            "bytes": int(sizes.sum()),
            "content": _digest_of_arrays(letters, ends, labels),
            "listed_ns": listed_ns,
            "classes": list(classes),
            "folders": folders,
        }
        write_json(folder / "meta.json", meta)
        _replace_folder(target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(target: Path, new: Path) -> None:
    """Rename ``new`` to ``target``; readers of an older ``target`` keep their open files."""
    old = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.old.part")
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    try:
        new.rename(target)
    except OSError:  # another process has just published its own index of the same folder
        if not (target / "meta.json").is_file():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array)


def _digest_of_arrays(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
