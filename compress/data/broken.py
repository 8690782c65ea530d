"""Broken images: all of a recipe's that cannot be decoded, named together, and the list that leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config import DataConfig
from ..errors import BrokenImage, DataError
from ..files.atomic import write_text
from ..files.untrusted import printable
from ..progress import SILENT, Progress
from .archive import ArchiveSource
from .decode import DECODE_THREADS, image_error
from .layout import find_layout
from .listing import class_folders, image_names

MOST_CHECKED: Final = 50_000
"""Images up to which all are decoded to find the broken ones (minutes)."""
_NAMED: Final = 10
_HEAD: Final = "broken images, found by 'slimsight init --skip-broken'"
_REMEDY: Final = "'slimsight init --skip-broken' leaves such images out, as does a file for data.skip that names them"


@dataclass(frozen=True)
class BrokenFile:
    """An image that cannot be decoded: its path below ``data.path``, as in ``data.skip``, and why."""

    name: str
    reason: str


def find_broken(config: DataConfig, *, progress: Progress = SILENT) -> tuple[BrokenFile, ...] | None:
    """All images of all splits that cannot be decoded; None if a folder holds too many images to look at each.

    Images that ``data.skip`` leaves out are not looked at.

    Raises:
        DataError: the splits cannot be found, or an archive cannot be read.
    """
    path = config.path
    if config.source not in ("image_folder", "image_tree") or path is None:
        return ()
    if not path.is_dir():
        items = ((name, image_error(content)) for name, content in ArchiveSource.of(config, None).files())
        checked = progress.track(items, "check images", unit="img")
        return _sorted_broken(checked)
    names = _names_in_folder(config)
    if len(names) > MOST_CHECKED:
        return None
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="check") as pool:
        errors = pool.map(lambda name: image_error(path / name), names, chunksize=1)
        checked = progress.track(zip(names, errors, strict=True), "check images", total=len(names), unit="img")
        return _sorted_broken(checked)


def broken_sentence(broken: Sequence[BrokenFile], where: Path | None) -> str:
    """Names of broken images with their reasons: the first ten, and how many more there are."""
    named = [f"{printable(each.name, 500)} ({printable(each.reason)})" for each in broken[:_NAMED]]
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    images = "1 image" if len(broken) == 1 else f"{len(broken):,} images"
    return (
        f"{images} in {where} cannot be read: {', '.join(named)}{more}; replace or remove "
        f"{'it' if len(broken) == 1 else 'them'}, or leave {'it' if len(broken) == 1 else 'them'} out: {_REMEDY}"
    )


@contextmanager
def naming_all_broken(config: DataConfig, progress: Progress = SILENT) -> Iterator[None]:
    """Context: where one image turns out to be broken, all are looked for, and named in one error.

    Raises:
        BrokenImage: with all names; with the first alone in folders of more than ``MOST_CHECKED`` images.
    """
    try:
        yield
    except BrokenImage as error:
        if error.all_named:
            raise
        progress.note("a broken image: looking for others")
        broken = find_broken(config, progress=progress)
        if broken is None:
            text = f"{error} (others were not looked for: there are more than {MOST_CHECKED:,} images)"
        else:
            text = f"{error} ({_REMEDY})" if len(broken) < 2 else broken_sentence(broken, config.path)
        raise BrokenImage(text, all_named=True) from error


def write_skip_list(path: Path, broken: Sequence[BrokenFile]) -> None:
    """Write a file for ``data.skip`` that names ``broken`` images.

    Raises:
        DataError: a name that no line of a text file can hold.
        RunError: the file cannot be written.
    """
    for each in broken:
        if not _is_one_line(each.name):
            raise DataError(
                f"{printable(each.name, 500)} is broken, and its name cannot be written as a line of data.skip; remove "
                "or rename it"
            )
    lines = [f"# {len(broken)} {_HEAD}", *(each.name for each in broken)]
    write_text(path, "\n".join(lines) + "\n")


def _is_one_line(name: str) -> bool:
    """Whether a line of a UTF-8 file, read without its surrounding space and unless it is a comment, gives ``name``."""
    try:
        name.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 on the disk
        return False
    return name.splitlines() == [name.strip()] and not name.startswith("#")


def is_skip_list(path: Path) -> bool:
    """Whether ``path`` is a list that ``write_skip_list`` wrote, and which may be written again."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(200).rstrip("\n").endswith(_HEAD)
    except (OSError, UnicodeDecodeError):
        return False


def _names_in_folder(config: DataConfig) -> list[str]:
    """Paths below ``data.path`` of all images of all splits."""
    assert config.path is not None, "DataConfig requires a path"
    layout = find_layout(config)
    names: list[str] = []
    for split, root in layout.folders.items():
        flat = config.labels == "none" or (split == "test" and layout.labels is not None)
        folders = [""] if flat else class_folders(root, layout.selection.classes)
        base = root.relative_to(config.path)
        skip = layout.selection.skipped_below(root)
        names += [(base / name).as_posix() for folder in folders for name in image_names(root, folder, skip)]
    return names


def _sorted_broken(checked: Iterator[tuple[str, str | None]]) -> tuple[BrokenFile, ...]:
    found = [BrokenFile(name, reason) for name, reason in checked if reason is not None]
    return tuple(sorted(found, key=lambda each: each.name))
