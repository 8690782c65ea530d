"""What a stranger hands over: read up to a limit, never waited for, and shown without what a terminal would obey."""

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
_LARGEST: Final = 2**63 - 1
_SURROGATE: Final = re.compile(r"\\u[dD][89abAB-Fc-f]")
# Control characters, those that reverse the direction of text, line ends of Unicode and halves of surrogate pairs.
_HIDDEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COMMAND: Final = re.compile(r"^(\s*)::", re.MULTILINE)


def open_limited(path: Path, most: int) -> BinaryIO:
    """``path`` open to read, if it is a file of at most ``most`` bytes; a pipe is refused, not waited for.

    Raises:
        OSError: it is missing, cannot be read, is no file, or is larger; ``strerror`` says which.
    """
    _refuse_what_is_no_file(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        found = os.fstat(descriptor)
        _refuse_what_is_no_file(path, found)
        if found.st_size > most:
            size, limit = (f"{count / MEBIBYTE:,.4g} MiB" for count in (found.st_size, most))
            raise OSError(errno.EOVERFLOW, f"it has {size}, and at most {limit} are read", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_what_is_no_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        error = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(error, f"it is {kind}, and a file is needed", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes.

    Raises:
        OSError: as ``open_limited``.
    """
    with open_limited(path, most) as file:
        return file.read(most)


def read_text(path: Path, most: int) -> str:
    """The content of a UTF-8 file of at most ``most`` bytes; a byte order mark is left out.

    Raises:
        OSError: as ``open_limited``.
        UnicodeDecodeError: it is no UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig")


def parse_json(text: str) -> Any:
    """The value that ``text`` holds, read strictly: every key once, every number finite and below 2 to the 63.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        found = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_once
        )
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it holds half of a surrogate pair, which is no character") from None
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _LARGEST:
        raise ValueError(f"the number {text[:20]}{'...' * (len(text) > 20)} is too large")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number that JSON has")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{printable(twice)}' is written twice")
    return found


def escape_controls(text: str) -> str:
    """``text`` with what a terminal would obey made visible; its lines stay.

    A line that a CI service would take for a command of its own (``::error::``) is broken up.
    """
    return _COMMAND.sub(r"\1: :", _HIDDEN.sub(lambda found: _escaped(found.group()), text))


def printable(name: str, most: int = 200) -> str:
    """A name as one line in a message: what cannot be printed is escaped, and the middle of a long one left out."""
    shown = "".join(c if c.isprintable() else _escaped(c) for c in name)
    return shown if len(shown) <= most else f"{shown[: most // 2]}...{shown[-most // 2 :]}"


def _escaped(character: str) -> str:
    code = ord(character)
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return named.get(
        character, rf"\x{code:02x}" if code < 256 else rf"\u{code:04x}" if code < 2**16 else rf"\U{code:08x}"
    )


def path_inside(root: Path, name: str) -> Path | None:
    """The place ``name`` (with slashes) below ``root``; None where it, or a link on the way to it, leads elsewhere."""
    parts = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or parts.is_absolute() or ".." in parts.parts:
        return None
    place = root / parts
    try:
        return place if place.resolve().is_relative_to(root.resolve()) else None
    except (OSError, RuntimeError):  # links in a circle
        return None


def special_files(root: Path) -> Iterator[tuple[Path, str]]:
    """What below ``root`` is neither folder nor file nor a link to one below it, and what it is, in words."""
    real = root.resolve()
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            place = Path(folder) / name
            mode = place.lstat().st_mode
            if stat.S_ISLNK(mode):
                if not _real(place).is_relative_to(real):
                    yield place, "a link that leads out of the folder"
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                yield place, next(kind for is_kind, kind in _KINDS if is_kind(mode))


def _real(place: Path) -> Path:
    try:
        return place.resolve()
    except (OSError, RuntimeError):  # a circle leads nowhere
        return Path(os.sep)
