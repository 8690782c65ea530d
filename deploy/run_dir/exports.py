"""Whether the files of ``slimsight export`` are what it wrote."""

from __future__ import annotations

from pathlib import Path

from slimsight.compress.errors import Damaged
from slimsight.compress.files.sealed import find_damage, read_sealed
from slimsight.compress.files.untrusted import path_inside

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
    try:
        files = [
            (path_inside(folder, file["file"]), int(file["size_bytes"]), str(file["sha256"])) for file in found["files"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(folder / EXPORT_FILE, "was changed since it was written", remedy) from error
    for place, size, sha256 in files:
        if place is None:
            raise Damaged(folder / EXPORT_FILE, "names files that do not lie beside it", remedy)
        if (wrong := find_damage(place, size, sha256)) is not None or (wrong := _damage_beside(place)) is not None:
            raise wrong.remedied(remedy)


def _damage_beside(place: Path) -> Damaged | None:
    """Of the sealed figures beside an engine, which say what it was built of."""
    if place.suffix != ".engine":
        return None
    from slimsight.export.engines.key import sidecar  # brings torch; most exports hold no engine

    beside = sidecar(place)
    try:
        read_sealed(beside)
    except FileNotFoundError:
        return Damaged(beside, "is gone")
    except Damaged as damage:
        return damage
    return None
