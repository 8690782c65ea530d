"""What lies in a folder of images and is not read: files of other formats, links to folders, folders of systems."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

from ..files.untrusted import printable
from .decode import SUFFIXES, is_image, is_left_out

_MOST_ENTRIES: Final = 200_000  # that are looked at: a second
_NAMED: Final = 4


def unread_notes(path: Path) -> list[str]:
    """Sentences about what below the folder ``path`` is not read, so that no image is missed unnoticed."""
    others, links, systems = Counter[str](), list[str](), Counter[str]()
    seen = 0
    for folder, folders, files in os.walk(path):
        others.update(Path(file).suffix.lower() or file for file in files if not is_image(file))
        systems.update(name for name in folders if is_left_out(name) and not name.startswith("."))
        kept = [name for name in folders if not is_left_out(name)]
        if folder != str(path):  # class folders, and folders of splits, may be links
            links += [name for name in kept if Path(folder, name).is_symlink() and not _is_class(path, folder)]
        folders[:] = kept
        seen += len(files) + len(folders)
        if seen > _MOST_ENTRIES:
            break
    notes = []
    if others:
        named = ", ".join(f"{count:,} {printable(name)}" for name, count in _most_common(others))
        notes.append(
            f"{sum(others.values()):,} other files are not read ({named}); read are {', '.join(sorted(SUFFIXES))}"
        )
    if links:
        more = f" and {len(links) - _NAMED} more" if len(links) > _NAMED else ""
        notes.append(
            f"links to folders inside of class folders are not followed ({', '.join(map(printable, links[:_NAMED]))}"
            f"{more}): put folders in their place if their images are meant"
        )
    if systems:
        named = ", ".join(f"{count:,} {name}" for name, count in _most_common(systems))
        notes.append(f"folders that a system makes, of thumbnails or of what was deleted, are not read ({named})")
    return notes


def _is_class(path: Path, folder: str) -> bool:
    """Whether ``folder`` holds class folders: it lies directly in ``path`` and holds no image."""
    return Path(folder).parent == path and not any(is_image(entry.name) for entry in Path(folder).iterdir())


def _most_common(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
