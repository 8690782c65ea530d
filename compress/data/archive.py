"""An image tree inside a tar archive, read from front to back once; no file of it is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast

from ..errors import DataError
from ..files.untrusted import MEBIBYTE, open_limited, printable
from .cache import fingerprint
from .decode import MOST_BYTES, Decoded, Encoded, decode, error_text, is_image
from .partition import check_classes, same_classes

_SPLITS = ("train", "test")
# Headers that say something about the next one: long names, and what POSIX calls extended headers.
_ABOUT = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_BLOCK = 512  # bytes of a tar block
_MOST_NAME = MEBIBYTE  # of what a tar holds about a member beside its header; tarfile takes it into memory whole
_FREE, _MOST_RATIO = 512 * MEBIBYTE, 200  # images that shrink to less than a two-hundredth hold nothing


@dataclass
class _Contents:
    """What a pass through the archive saw."""

    prefix: str | None = None  # a folder around train/ and test/, as in archives made by code hosts
    folders: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in _SPLITS})
    names: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in _SPLITS})

    def place(self, path: str) -> tuple[str, str] | None:
        """Split and name below it, or None for what is not part of the tree."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth] in _SPLITS:
                prefix = "/".join(parts[:depth])
                if self.prefix is None:
                    self.prefix = prefix
                if self.prefix == prefix:
                    return parts[depth], "/".join(parts[depth + 1 :])
        return None


@dataclass(frozen=True)
class ArchiveSource:
    """``train/<class>/*`` and ``test/<class>/*`` in a .tar, .tar.gz, .tar.bz2 or .tar.xz."""

    path: Path
    resize: int | None
    splits: tuple[str, ...] = _SPLITS
    one_pass: bool = True

    def fingerprint(self, split: str) -> str:
        stat = self.path.stat()
        facts = {"path": self.path.resolve(), "bytes": stat.st_size, "changed": stat.st_mtime_ns}
        return fingerprint(split, kind="archive", resize=self.resize, **facts)

    def count(self, splits: Collection[str]) -> None:
        """Known only at the end of the archive."""

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        seen = _Contents()
        for item in decode(self._encoded(seen), resize=self.resize):
            if item.split in splits:
                yield item
        self._check(seen)

    def _encoded(self, seen: _Contents) -> Iterator[Encoded]:
        for member, content in _members(self.path):
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise DataError(
                    f"{self.path}: {printable(member.name)} leads out of the archive; make it again from the folder "
                    "that holds train/ and test/"
                )
            placed = seen.place(member.name)
            if placed is None:
                continue
            split, name = placed
            if member.isdir():
                label = name.split("/")[0]
                if not label.startswith("."):
                    seen.folders[split].add(label)
            elif is_image(name) and "/" in name:
                where = f"{self.path}: {printable(member.name)}"
                if not member.isreg():
                    raise DataError(f"{where} is a link; make the archive again with --dereference --hard-dereference")
                if name in seen.names[split]:
                    raise DataError(f"{where} is in the archive twice; make the archive again")
                seen.names[split].add(name)
                yield Encoded(split, name, content, where)

    def _check(self, seen: _Contents) -> None:
        classes = {split: {name.split("/")[0] for name in seen.names[split]} for split in _SPLITS}
        for split in _SPLITS:
            where = f"{self.path}: {split}/"
            if not classes[split] | seen.folders[split]:
                raise DataError(
                    f"{self.path} holds no {split}/<class>/ folders with images; "
                    "an image tree holds train/<class>/* and test/<class>/*"
                )
            empty = sorted(seen.folders[split] - classes[split])
            if empty:
                raise DataError(f"class folder {where}{empty[0]} holds no images; add images to it or leave it out")
            check_classes(sorted(classes[split]), where)
        same_classes(classes["train"], classes["test"], f"{self.path}: train/", f"{self.path}: test/")


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members in the order of the archive, with the bytes of those that are image files.

    Raises:
        DataError: not an archive, or one that is damaged or cut off.
    """
    try:
        with (
            open_limited(path, sys.maxsize) as raw,
            _decompressed(raw) as file,
            tarfile.open(
                fileobj=cast(IO[bytes], _Measured(file, raw)), mode="r|", bufsize=2048 * _BLOCK, tarinfo=_Header
            ) as tar,
        ):
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it would keep every header
                content = tar.extractfile(member) if member.isreg() and is_image(_basename(member)) else None
                if content and member.size > MOST_BYTES:
                    raise tarfile.ReadError(f"{printable(member.name)} says it has {member.size:,} bytes: no image has")
                yield member, content.read() if content else b""
            # A damaged header or a cut-off file looks like the end to tarfile; the real end is zero blocks.
            if tar.fileobj is None or tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("it ends in the middle")
    # Of damaged headers tarfile lets errors of int() and of decoding through, and it follows them by recursion.
    except (
        tarfile.TarError,
        EOFError,
        lzma.LZMAError,
        zlib.error,
        OSError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{path} cannot be read as a .tar, .tar.gz, .tar.bz2 or .tar.xz ({error_text(error)}); "
            "download or make it again"
        ) from error


def _basename(member: tarfile.TarInfo) -> str:
    return member.name.rsplit("/", 1)[-1]


class _Header(tarfile.TarInfo):
    """A header that may not announce more than ``_MOST_NAME`` about the next one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _ABOUT and found.size > _MOST_NAME):
            raise tarfile.ReadError(f"a header announces {found.size:,} bytes about a member, which is damage")
        return found


class _Measured:
    """``file``, which decompresses ``raw``, as long as what comes out of it is not out of all proportion.

    Raises:
        tarfile.ReadError: from ``read``, when it is.
    """

    def __init__(self, file: IO[bytes], raw: IO[bytes]) -> None:
        self._file, self._raw, self._count = file, raw, 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._count += len(content)
        if self._count > _FREE and self._count > _MOST_RATIO * max(self._raw.tell(), 1):
            raise tarfile.ReadError(f"its first {self._raw.tell():,} bytes hold {self._count:,}, and images do not")
        return content


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """By the first bytes, not the suffix. Unlike tarfile's, these readers take several streams in a file."""
    start = raw.read(6)
    raw.seek(0)
    if start == b"\xfd7zXZ\x00":
        return lzma.open(raw, "rb")
    if start[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(raw, "rb"))
    if start[:3] == b"BZh":
        return bz2.open(raw, "rb")
    return raw
