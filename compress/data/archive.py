"""Image tree in a tar archive, streamed in one pass; nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self, cast

from ..config import DataConfig
from ..errors import Damaged, DataError
from ..files.sealed import read_sealed, write_sealed
from ..files.untrusted import MEBIBYTE, open_limited, printable
from .cache import fingerprint
from .decode import MOST_BYTES, Decoded, Encoded, decode, error_text, is_image
from .layout import take_val_as_test
from .lists import read_skip
from .partition import check_classes, check_same_classes
from .preprocessing import Preprocessing, cache_key
from .split_names import FolderContent, find_splits, split_of

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
class _SeenFiles:
    """Class folders and image names per split, collected while the archive is read."""

    folders: dict[str, set[str]]
    names: dict[str, set[str]]


@dataclass(frozen=True)
class ArchiveLayout:
    """Where the splits lie in an archive: a folder around them (or ""), and the folder of each split."""

    prefix: str
    folders: Mapping[str, str]

    def locate(self, path: str) -> tuple[str, str] | None:
        """Split and name below it, or None for a path outside the tree."""
        parts = _parts(path)
        depth = 1 if self.prefix else 0
        if len(parts) > depth + 1 and (not depth or parts[0] == self.prefix):
            for split, folder in self.folders.items():
                if parts[depth] == folder:
                    return split, "/".join(parts[depth + 1 :])
        return None


@dataclass(frozen=True)
class ArchiveSource:
    """Source: ``train/<class>/*`` and ``test/<class>/*`` (or val/, or both) in a .tar, .tar.gz, .tar.bz2 or .tar.xz.

    Args:
        config: decides whether val/ is the test set, and which images are left out; None: neither.
        cache_dir: where the archive's layout is remembered: finding it means to read the whole archive.
    """

    path: Path
    preprocessing: Preprocessing | None
    config: DataConfig | None = None
    skip: frozenset[str] = frozenset()
    cache_dir: Path | None = None
    one_pass: bool = True

    @classmethod
    def of(cls, config: DataConfig, cache_dir: Path | None) -> ArchiveSource:
        """The archive that a recipe names."""
        assert config.path is not None, "DataConfig requires a path"
        skip = frozenset[str]() if config.skip is None else read_skip(config.skip)
        return cls(config.path, Preprocessing.of(config), config, skip, cache_dir)

    @cached_property
    def layout(self) -> ArchiveLayout:
        """Where its splits lie.

        Raises:
            DataError: a split is missing, or two folders of the archive may be the same split.
        """
        found = read_layout(self.path, self.cache_dir)
        if self.config is None:
            return found
        return ArchiveLayout(found.prefix, take_val_as_test(found.folders, self.config))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.layout.folders)

    def fingerprint(self, split: str) -> str:
        facts: dict[str, Any] = _facts(self.path)
        if self.config is not None and self.config.val_is_test:
            facts["folder"] = self.layout.folders[split]
        if self.skip:
            facts["skip"] = sorted(self.skip)
        return fingerprint(split, kind="archive", resize=cache_key(self.preprocessing), **facts)

    def count(self, splits: Collection[str]) -> None:
        """None: the number is known only at the end of the archive."""

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        seen = _SeenFiles({split: set() for split in self.splits}, {split: set() for split in self.splits})
        for item in decode(self._encoded(seen), self.preprocessing):
            if item.split in splits:
                yield item
        self._check_tree(seen)

    def _encoded(self, seen: _SeenFiles) -> Iterator[Encoded]:
        for member, content in read_members(self.path):
            location = self.layout.locate(member.name)
            if location is None:
                continue
            split, name = location
            if member.isdir():
                label = name.split("/")[0]
                if not label.startswith("."):
                    seen.folders[split].add(label)
            elif is_image(name) and "/" in name and f"{self.layout.folders[split]}/{name}" not in self.skip:
                where = f"{self.path}: {printable(member.name)}"
                if not member.isreg():
                    raise DataError(f"{where} is a link; make the archive again with --dereference --hard-dereference")
                if name in seen.names[split]:
                    raise DataError(f"{where} is in the archive twice; make the archive again")
                seen.names[split].add(name)
                yield Encoded(split, name, content, where)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path below the folder of the splits, and content, of every image."""
        seen = _SeenFiles({split: set() for split in self.splits}, {split: set() for split in self.splits})
        for item in self._encoded(seen):
            assert isinstance(item.data, bytes)
            yield f"{self.layout.folders[item.split]}/{item.name}", item.data

    def _check_tree(self, seen: _SeenFiles) -> None:
        classes = {split: {name.split("/")[0] for name in seen.names[split]} for split in self.splits}
        inside = {split: f"{self.path}: {folder}/" for split, folder in self.layout.folders.items()}
        for split, where in inside.items():
            if not classes[split] | seen.folders[split]:
                raise _missing(self.path, self.layout.folders[split])
            empty = sorted(seen.folders[split] - classes[split])
            if empty:
                raise DataError(f"class folder {where}{empty[0]} holds no images; add images to it or leave it out")
            check_classes(sorted(classes[split]), where)
        for split, where in inside.items():
            check_same_classes(classes["train"], classes[split], inside["train"], where)


def read_layout(path: Path, cache_dir: Path | None = None) -> ArchiveLayout:
    """The layout of an archive, from ``cache_dir`` if it was read before, else by reading the archive.

    Raises:
        DataError: not an archive, a damaged one, or one without the splits of an image tree.
    """
    remembered = None if cache_dir is None else cache_dir / f"{fingerprint('layout', **_facts(path))}.json"
    if remembered is not None:
        with suppress(FileNotFoundError, Damaged):
            known = read_sealed(remembered)
            return ArchiveLayout(known["prefix"], known["folders"])
    found = _find_layout(path)
    if remembered is not None:
        write_sealed(remembered, {"prefix": found.prefix, "folders": dict(found.folders)})
    return found


def _find_layout(path: Path) -> ArchiveLayout:
    """The first folder of the archive, or the archive itself, that holds train/ and test/ or val/."""
    content: dict[str, dict[str, None]] = {}  # folders in folders, in the order of the archive
    images: set[str] = set()
    for member, _ in read_members(path, content=False):
        parts = _parts(member.name)
        folders = parts if member.isdir() else parts[:-1]
        if any(part.startswith(".") for part in folders[:3]):
            continue
        for depth, name in enumerate(folders[:3]):
            content.setdefault("/".join(folders[:depth]), {})[name] = None
        if not member.isdir() and len(folders) <= 2 and is_image(member.name):
            images.add("/".join(folders))
    incomplete: ArchiveLayout | None = None
    for prefix in ("", *content.get("", ())):
        names = list(content.get(prefix, ()))
        if not any(split_of(name) == "train" for name in names):
            continue
        where = f"{path}: {prefix}/" if prefix else str(path)
        base = f"{prefix}/" if prefix else ""
        below = {name: FolderContent(frozenset(content.get(base + name, ())), base + name in images) for name in names}
        found = ArchiveLayout(prefix, find_splits(where, names, below.__getitem__) or {})
        if "train" in found.folders and len(found.folders) > 1:
            return found
        incomplete = incomplete or found
    raise _missing(path, "train" if incomplete is None or not incomplete.folders else "test")


def _missing(path: Path, folder: str) -> DataError:
    return DataError(
        f"{path} holds no {folder}/<class>/ folders with images; an image tree holds train/<class>/* and test/<class>/*"
    )


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _facts(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"path": path.resolve(), "bytes": stat.st_size, "changed": [stat.st_mtime_ns, stat.st_ctime_ns]}


def read_members(path: Path, *, content: bool = True) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members in the order of the archive; with the bytes of image files (if ``content``), without those of others.

    Raises:
        DataError: not an archive, a damaged or truncated one, or one whose files would lie outside its folder.
    """
    for member, data in _read_members(path, content):
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise DataError(
                f"{path}: {printable(member.name)} points outside the archive; make it again from the folder "
                "that holds train/ and test/"
            )
        yield member, data


def _read_members(path: Path, content: bool) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
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
                image = member.isreg() and is_image(_basename(member))
                if image and member.size > MOST_BYTES:
                    raise tarfile.ReadError(
                        f"{printable(member.name)} has {member.size:,} bytes, more than the {MOST_BYTES:,} of an image"
                    )
                file_in_tar = tar.extractfile(member) if image and content else None
                yield member, file_in_tar.read() if file_in_tar else b""
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
