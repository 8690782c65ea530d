"""Reading and displaying untrusted files: size limits, no blocking on pipes, strict JSON, no terminal escapes."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

MEBIBYTE: Final = 2**20
MOST_JSON: Final = 256 * MEBIBYTE  # report.json with the gates' history takes some hundred kilobytes
MOST_LIST: Final = 256 * MEBIBYTE  # ImageNet's 1.28 million names take 50

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MAX_INT: Final = 2**63 - 1
_SURROGATE: Final = re.compile(r"\\u[dD][89abAB-Fc-f]")
# Control characters, text directions, Unicode line ends, characters without a width that no script needs (joiners of
# letters and emoji stay), unpaired surrogates and what is no character.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # of bytes that are not UTF-8 in names: PEP 383
_COMMAND: Final = re.compile(r"^(\s*)::", re.MULTILINE)


def open_limited(path: Path, most: int) -> BinaryIO:
    """Open a regular file of at most ``most`` bytes for reading; pipes are refused without blocking.

    Raises:
        OSError: it is missing, unreadable, not a regular file, or larger; ``strerror`` says which.
    """
    _refuse_special_file(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(descriptor)
        _refuse_special_file(path, status)
        if status.st_size > most:
            size, limit = (f"{count / MEBIBYTE:,.4g} MiB" for count in (status.st_size, most))
            raise OSError(errno.EOVERFLOW, f"it has {size}, and at most {limit} are read", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_special_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "a special file")
        error = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(error, f"it is {kind}, and a file is needed", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes.

    Raises:
        OSError: as ``open_limited``.
    """
    with open_limited(path, most) as file:
        return file.read(most)


def read_text(path: Path, most: int) -> str:
    """The content of a UTF-8 file of at most ``most`` bytes, without a byte order mark.

    Raises:
        OSError: as ``open_limited``.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig")


def parse_json(text: str, *, file_names: bool = False) -> Any:
    """Parse JSON strictly: no duplicate keys, finite numbers, integers below 2**63.

    Args:
        file_names: strings may be names of files that are not UTF-8, as ``os.fsdecode`` gives them.

    Raises:
        ValueError: it is not valid, or not in these limits.
    """
    try:
        value = json.loads(
            text,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape" if file_names else "strict")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a string in it contains an unpaired surrogate, which is not a character") from None
    return value


def _parse_int(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _MAX_INT:
        raise ValueError(f"the number {text[:20]}{'...' * (len(text) > 20)} is too large")
    return int(text)


def _parse_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{printable(twice)}' is written twice")
    return value


def escape_controls(text: str) -> str:
    """``text`` with control characters escaped; line breaks stay.

    Workflow commands of CI services (``::error::``) at the start of a line are broken up.
    """
    return _COMMAND.sub(r"\1: :", escape_hidden(text))


def escape_hidden(text: str) -> str:
    """``text`` with control and bidirectional characters escaped; tabs and line breaks stay."""
    return _HIDDEN.sub(lambda match: _escape_character(match.group()), text)


def printable(name: str, most: int = 200) -> str:
    """A name for a message, on one line: unprintable characters escaped, the middle of a long name cut out."""
    shown = "".join(c if c.isprintable() else _escape_character(c) for c in name)
    return shown if len(shown) <= most else f"{shown[: most // 2]}...{shown[-most // 2 :]}"


def is_utf8(name: str) -> bool:
    """Whether the name of a file, as ``os.fsdecode`` gives it, is UTF-8 on the disk."""
    return not any(_is_surrogate(character) for character in name)


def as_text(name: str) -> str:
    """The name of a file as text that every encoder takes: bytes that are not UTF-8 are escaped (``caf\\xe9``)."""
    return name if is_utf8(name) else "".join(_escape_character(c) if _is_surrogate(c) else c for c in name)


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _escape_character(character: str) -> str:
    """Python's escape of a character; of a byte of a name that is not UTF-8 (``os.fsdecode``): ``\\xe9``."""
    code = ord(character)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        code -= _FIRST_BYTE - 0x80
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return named.get(
        character, rf"\x{code:02x}" if code < 256 else rf"\u{code:04x}" if code < 2**16 else rf"\U{code:08x}"
    )


def path_inside(root: Path, name: str) -> Path | None:
    """The path of ``name`` (with slashes) below ``root``; None if it, or a link in it, points outside ``root``."""
    parts = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or parts.is_absolute() or ".." in parts.parts:
        return None
    path = root / parts
    try:
        return path if path.resolve().is_relative_to(root.resolve()) else None
    except (OSError, RuntimeError):  # links in a circle
        return None


def special_files(root: Path) -> Iterator[tuple[Path, str]]:
    """(path, kind in words) below ``root`` of links to the outside, devices, pipes and sockets."""
    real = root.resolve()
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                if not _resolve(path).is_relative_to(real):
                    yield path, "a link that points outside the folder"
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                yield path, next(kind for is_kind, kind in _KINDS if is_kind(mode))


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return Path(os.sep)
