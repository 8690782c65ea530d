"""Whether a file is the one that was exported."""

from __future__ import annotations

import hashlib
from pathlib import Path

from compress.errors import ExportError


def sha256_of(path: Path) -> str:
    """The checksum of a file's content.

    Raises:
        ExportError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ExportError(f"there is no {path}: export it again") from error


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the one that was exported.

    Raises:
        ExportError: it is gone, or its content is another than when it was written.
    """
    found = sha256_of(path)
    if found != expected:
        raise ExportError(
            f"{path} is not the file that was exported: its sha256 is {found[:12]}..., {expected[:12]}... was "
            "recorded; it was cut off or changed since: remove it and export it again"
        )
