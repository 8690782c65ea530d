"""Integrity of files: checksums, and sealed JSON, which contains its own checksum."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Damaged
from .atomic import write_text
from .untrusted import MOST_JSON, parse_json, read_bytes

_SEAL = re.compile(rb'\{\n  "seal": "([0-9a-f]{64})"[,\n]')
_BLANK = "0" * 64


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(path: Path, size: int | None = None, sha256: str | None = None) -> Damaged | None:
    """How the file at ``path`` differs from the recorded ``size`` in bytes and checksum; None if it does not.

    Raises:
        OSError: it exists and cannot be read.
    """
    try:
        actual = path.stat().st_size
        if size is not None and actual < size:
            return Damaged(path, f"is cut off: {actual} of {size} bytes are there")
        if size is not None and actual > size:
            return Damaged(path, f"was changed since it was written: it has {actual} bytes, {size} were recorded")
        if sha256 is not None and (digest := sha256_of_file(path)) != sha256:
            return Damaged(
                path,
                f"was changed since it was written: its sha256 is {digest[:12]}..., {sha256[:12]}... was recorded",
            )
    except (FileNotFoundError, NotADirectoryError):
        return Damaged(path, "is gone")
    return None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as indented JSON, atomically, with its ``seal`` as the first key.

    The seal is the SHA-256 of the file's bytes, with 64 zeros instead of the seal: it covers every byte.
    """
    assert "seal" not in value
    text = json.dumps({"seal": _BLANK, **value}, indent=2, allow_nan=False) + "\n"
    write_text(path, text.replace(_BLANK, hashlib.sha256(text.encode()).hexdigest(), 1))


def read_sealed(path: Path, *, older: bool = False) -> dict[str, Any]:
    """Read a file of ``write_sealed`` and verify its seal; the value without the seal.

    Args:
        older: also accept JSON without a seal, from earlier versions. The caller must refuse unknown keys, such as a
            damaged ``"seal"``.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: a byte of it differs from what was written.
    """
    data = read_bytes(path, MOST_JSON)
    seal = _SEAL.match(data)
    if seal is None and not older:
        raise Damaged(path, "was changed since it was written, or an earlier version wrote it: it has no seal")
    if seal is not None:
        blank = data[: seal.start(1)] + _BLANK.encode() + data[seal.end(1) :]
        if hashlib.sha256(blank).hexdigest().encode() != seal[1]:
            raise Damaged(path, "was changed since it was written: its seal does not fit")
    try:
        value = parse_json(data.decode(), file_names=True)
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise Damaged(path, f"is cut off or was changed since it was written: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damaged(path, "was changed since it was written: it is not a JSON object")
    value.pop("seal", None)
    return value
