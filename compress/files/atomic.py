"""Atomic and durable file writes (temporary file, fsync, rename), for text, JSON and safetensors, and their readers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RunError
from .destination import follow_links, is_replaceable, written_into
from .untrusted import MOST_JSON, as_text, parse_json, read_text

if TYPE_CHECKING:
    import torch


# Network and user-space file systems that cannot sync a folder do so by themselves.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exhausted quota and a file above the size limit."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Context: a temporary path beside ``path``, renamed to ``path`` if the block succeeds, and else removed.

    A link at ``path`` stays, and the file that it leads to is replaced. A device, a pipe or an open file
    (``/dev/stdout``) is never replaced: the content is written into it.

    Args:
        durable: sync to disk, so that the file survives a power cut. That takes milliseconds; without it (for
            pictures, of which a run draws many) a power cut may leave an empty file.

    Raises:
        RunError: the disk is full or the folder is not writable; an earlier file at ``path`` is untouched.
    """
    with write_errors(path):
        place = follow_links(path)
        if not is_replaceable(place):
            with written_into(place) as made:
                yield made
            return
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with write_errors(path):
            make_folder(place.parent)
            yield part
            if durable:
                sync_file(part)  # before the rename, else the new name may refer to an empty file
            part.replace(place)
            if durable:
                sync_folder(place.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Context: turns an OSError about writing ``path`` into a one-sentence RunError; other errors pass.

    Raises:
        RunError: the disk is full or the folder is not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise RunError(
                f"{disk_full_reason(error)}: {path} could not be written; free some space (or choose another --out) "
                "and run again: what was finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP):
            raise RunError(f"cannot write {path}: {error.strerror}; choose a writable folder with --out") from error
        raise


def disk_full_reason(error: OSError) -> str:
    """Which of ``DISK_FULL`` the error is, in words."""
    return "the file is larger than this account or disk allows" if error.errno == errno.EFBIG else "the disk is full"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; bytes of file names that are not UTF-8 are escaped."""
    with atomic_path(path) as part:
        part.write_text(as_text(text), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *, file_names: bool = False) -> Any:
    """The value in a JSON file; ``file_names``: as in ``parse_json``.

    Raises:
        OSError: it is missing, unreadable, not a regular file, or too large.
        ValueError: it is not valid JSON (see ``slimsight.compress.files.untrusted.parse_json``).
    """
    return parse_json(read_text(path, MOST_JSON), file_names=file_names)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors (CPU copies, contiguous) as safetensors, atomically; the same content gives the same bytes."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as part:
        # safetensors' own writer hides a full disk's errno
        part.write_bytes(_with_sorted_metadata(save(plain, metadata=metadata)))


_LENGTH = 8
"""Bytes in front of a safetensors file's header that say how long it is."""


def _with_sorted_metadata(data: bytes) -> bytes:
    """A safetensors file with its metadata in the order of their names: the library writes them in a random one."""
    length = int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH : _LENGTH + length])
    if len(header.get("__metadata__", {})) < 2:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    size = length + max(0, len(text) - length + 7) // 8 * 8
    return size.to_bytes(_LENGTH, "little") + text.ljust(size) + data[_LENGTH + length :]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ModelError: it is missing, not a regular file, or not a valid safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise ModelError(f"weights file {path} {what}; give a .safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"weights file {path} is not a readable safetensors file: {reason}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file that ``read_tensors`` takes says of itself; empty where it says nothing."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def sync_file(path: Path) -> None:
    """Flush the content of ``path`` to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of ``folder`` to disk: files renamed, created or removed in it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents, each synced to disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def remove(path: Path) -> None:
    """Remove a file if it exists, synced to disk."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that is there and holds nothing."""
    with suppress(OSError):
        folder.rmdir()
