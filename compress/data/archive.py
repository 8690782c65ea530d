"""Image tree in a tar archive, streamed in one pass; nothing is unpacked to disk."""

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
from .partition import check_classes, check_same_classes

_SPLITS = ("train", "test")
# Headers that describe the next member: long names, and POSIX extended headers.
_METADATA_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_BLOCK = 512  # bytes of a tar block
_MAX_METADATA = MEBIBYTE  # bytes of such a header; tarfile reads it into memory at once
# A decompression bomb: more than this many bytes, at more than this ratio. Images do not compress so well.
_BOMB_BYTES, _BOMB_RATIO = 512 * MEBIBYTE, 200


@dataclass
class _TreeIndex:
    """Class folders and image names per split, collected while the archive is read."""

    prefix: str | None = None  # a folder around train/ and test/, as in archives made by code hosts
    folders: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in _SPLITS})
    names: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in _SPLITS})

    def locate(self, path: str) -> tuple[str, str] | None:
        """Split and name below it, or None for a path outside the tree."""
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
    """Source: ``train/<class>/*`` and ``test/<class>/*`` in a .tar, .tar.gz, .tar.bz2 or .tar.xz."""

    path: Path
    resize: int | None
    splits: tuple[str, ...] = _SPLITS
    one_pass: bool = True

    def fingerprint(self, split: str) -> str:
        stat = self.path.stat()
        facts = {"path": self.path.resolve(), "bytes": stat.st_size, "changed": stat.st_mtime_ns}
        return fingerprint(split, kind="archive", resize=self.resize, **facts)

    def count(self, splits: Collection[str]) -> None:
        """None: the number is known only at the end of the archive."""

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        seen = _TreeIndex()
        for item in decode(self._encoded(seen), resize=self.resize):
            if item.split in splits:
                yield item
        self._check_tree(seen)

    def _encoded(self, seen: _TreeIndex) -> Iterator[Encoded]:
        for member, content in _members(self.path):
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise DataError(
                    f"{self.path}: {printable(member.name)} points outside the archive; make it again from the folder "
                    "that holds train/ and test/"
                )
            location = seen.locate(member.name)
            if location is None:
                continue
            split, name = location
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

    def _check_tree(self, seen: _TreeIndex) -> None:
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
        check_same_classes(classes["train"], classes["test"], f"{self.path}: train/", f"{self.path}: test/")


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members in the order of the archive; with the bytes of image files, without those of others.

    Raises:
        DataError: not an archive, or a damaged or truncated one.
    """
    try:
        with (
            open_limited(path, sys.maxsize) as raw,
            _decompressed(raw) as file,
            tarfile.open(
                fileobj=cast(IO[bytes], _BombGuard(file, raw)), mode="r|", bufsize=2048 * _BLOCK, tarinfo=_BoundedHeader
            ) as tar,
        ):
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it would keep every header
                content = tar.extractfile(member) if member.isreg() and is_image(_basename(member)) else None
                if content and member.size > MOST_BYTES:
                    raise tarfile.ReadError(
                        f"{printable(member.name)} has {member.size:,} bytes, more than the {MOST_BYTES:,} of an image"
                    )
                yield member, content.read() if content else b""
            # tarfile takes a damaged header or a truncated file for the end; the real end is zero blocks.
            if tar.fileobj is None or tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("it ends in the middle")
    # On damaged headers tarfile lets errors of int() and of decoding through, and it may recurse without end.
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


class _BoundedHeader(tarfile.TarInfo):
    """A tar header; refused if its metadata about the next member exceed ``_MAX_METADATA``."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _METADATA_TYPES and header.size > _MAX_METADATA):
            raise tarfile.ReadError(f"a header announces {header.size:,} bytes about a member: it is damaged")
        return header


class _BombGuard:
    """``file``, which decompresses ``raw``; ``read`` raises tarfile.ReadError for a decompression bomb."""

    def __init__(self, file: IO[bytes], raw: IO[bytes]) -> None:
        self._file, self._raw, self._count = file, raw, 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._count += len(content)
        if self._count > _BOMB_BYTES and self._count > _BOMB_RATIO * max(self._raw.tell(), 1):
            raise tarfile.ReadError(f"its first {self._raw.tell():,} bytes expand to {self._count:,}, unlike images")
        return content


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """A decompressing reader, chosen by the first bytes. Unlike tarfile's, these read concatenated streams."""
    start = raw.read(6)
    raw.seek(0)
    if start == b"\xfd7zXZ\x00":
        return lzma.open(raw, "rb")
    if start[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(raw, "rb"))
    if start[:3] == b"BZh":
        return bz2.open(raw, "rb")
    return raw
