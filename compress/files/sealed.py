"""Whether a file is what was written: checksums, and JSON that carries its own."""

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
    """The checksum of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(path: Path, size: int | None = None, sha256: str | None = None) -> Damaged | None:
    """How the file at ``path`` differs from one of ``size`` bytes and this checksum; None: not at all.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        found = path.stat().st_size
        if size is not None and found < size:
            return Damaged(path, f"is cut off: {found} of {size} bytes are there")
        if size is not None and found > size:
            return Damaged(path, f"was changed since it was written: it has {found} bytes, {size} were recorded")
        if sha256 is not None and (other := sha256_of_file(path)) != sha256:
            return Damaged(
                path,
                f"was changed since it was written: its sha256 is {other[:12]}..., {sha256[:12]}... was recorded",
            )
    except (FileNotFoundError, NotADirectoryError):
        return Damaged(path, "is gone")
    return None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as indented JSON, whole or not at all, with ``seal`` before its own keys.

    The seal is the sha256 of the file's bytes with 64 zeros in its own place: every byte of the file counts.
    """
    assert "seal" not in value
    text = json.dumps({"seal": _BLANK, **value}, indent=2, allow_nan=False) + "\n"
    write_text(path, text.replace(_BLANK, hashlib.sha256(text.encode()).hexdigest(), 1))


def read_sealed(path: Path, *, older: bool = False) -> dict[str, Any]:
    """What ``write_sealed`` wrote, without the seal.

    Args:
        older: take JSON without a seal, as earlier versions wrote it, too. Whoever reads it knows its keys, and must
            refuse others: a damaged ``"seal"`` is one.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: not one byte of it may differ from what was written.
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
        value = parse_json(data.decode())
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise Damaged(path, f"is cut off or was changed since it was written: it is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damaged(path, "was changed since it was written: it is no JSON object")
    value.pop("seal", None)
    return value
