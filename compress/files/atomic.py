"""Files that are whole or absent, after a power cut too: written beside their place, synced, renamed into it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RunError
from .untrusted import MOST_JSON, parse_json, read_text

if TYPE_CHECKING:
    import torch


DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the operating system says when a disk, a quota or a limit on the size of files is used up."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well.

    Args:
        durable: after the block it stays, whatever happens to the machine. That takes milliseconds; without it (for
            pictures, of which a run draws many) a power cut may leave an empty file.

    Raises:
        RunError: the disk is full or the place is not writable; what stood at ``path`` before is untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with write_errors(path):
            make_folder(path.parent)
            yield part
            if durable:
                sync_file(part)  # before the rename: else the new name may come to stand for an empty file
            part.replace(path)
            if durable:
                sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing ``path`` into one sentence.

    Raises:
        RunError: the disk is full or the place is not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise RunError(
                f"{disk_full_reason(error)}: {path} could not be written; free some space (or choose another --out) "
                "and run again: what was finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RunError(f"cannot write {path}: {error.strerror}; choose a writable folder with --out") from error
        raise


def disk_full_reason(error: OSError) -> str:
    """Which of ``DISK_FULL`` it was, in words."""
    return "the file is larger than this account or disk allows" if error.errno == errno.EFBIG else "the disk is full"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value stored in a JSON file.

    Raises:
        OSError: it is missing, cannot be read, is no file, or is too large.
        ValueError: it is no JSON (see ``slimsight.compress.files.untrusted.parse_json``).
    """
    return parse_json(read_text(path, MOST_JSON))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all (CPU copies, contiguous)."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as part:
        part.write_bytes(save(plain, metadata=metadata))  # safetensors' own writer hides a full disk's errno


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ModelError: it is missing, no file, or no safetensors file: its header does not fit what follows it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise ModelError(f"weights file {path} {what}; give a .safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"weights file {path} is no readable safetensors file: {reason}") from error


_NO_SUCH_THING = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def sync_file(path: Path) -> None:
    """Return once the content of ``path`` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Return once the names in ``folder`` are on the disk: what was renamed, made or removed there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:  # network and user-space file systems may sync names by themselves
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it that are missing, each to be there after a power cut too."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there; it does not come back after a power cut."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)
