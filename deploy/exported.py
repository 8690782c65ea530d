"""Whether the files of ``slimsight export`` are what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import Damaged
from compress.sealed import find_damage, read_sealed

EXPORT_FILE = "export.json"
_KEYS = {"schema", "created", "versions", "device", "images", "passed", "files", "skipped"}


def check_exports(folder: Path) -> None:
    """Refuse the files in ``folder`` where one is not what its export.json says; nothing was exported there: nothing.

    Raises:
        Damaged: says which file, and what writes it again.
    """
    remedy = f"export again with 'slimsight export RUN' (its folder is {folder})"
    try:
        found = read_sealed(folder / EXPORT_FILE, older=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    except Damaged as damage:
        raise damage.remedied(remedy) from damage
    if not found.keys() <= _KEYS:
        raise Damaged(folder / EXPORT_FILE, "was changed since it was written", remedy)
    files: list[dict[str, Any]] = found.get("files", [])
    for file in files:
        if (wrong := find_damage(folder / file["file"], file["size_bytes"], file["sha256"])) is not None:
            raise wrong.remedied(remedy)
