"""Damage check of the files that ``slimsight export`` wrote, by the checksums in export.json."""

from __future__ import annotations

from pathlib import Path

from slimsight.compress.errors import Damaged
from slimsight.compress.files.sealed import find_damage, read_sealed
from slimsight.compress.files.untrusted import path_inside

EXPORT_FILE = "export.json"
_KEYS = {"schema", "created", "versions", "device", "images", "passed", "files", "skipped"}


def check_exports(folder: Path) -> None:
    """Refuse ``folder`` where an exported file is not as its export.json says; a folder without one is accepted.

    Raises:
        Damaged: names the file, and the command that writes it again.
    """
    remedy = f"export again with 'slimsight export RUN' (its folder is {folder})"
    try:
        data = read_sealed(folder / EXPORT_FILE, older=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    except Damaged as error:
        raise error.remedied(remedy) from error
    if not data.keys() <= _KEYS:
        raise Damaged(folder / EXPORT_FILE, "was changed since it was written", remedy)
    try:
        files = [
            (path_inside(folder, file["file"]), int(file["size_bytes"]), str(file["sha256"])) for file in data["files"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(folder / EXPORT_FILE, "was changed since it was written", remedy) from error
    for path, size, sha256 in files:
        if path is None:
            raise Damaged(folder / EXPORT_FILE, "names files outside of its folder", remedy)
        if (damage := find_damage(path, size, sha256)) is not None or (damage := _sidecar_damage(path)) is not None:
            raise damage.remedied(remedy)


def exported_names(folder: Path) -> frozenset[str]:
    """Names of the files in ``folder`` that its export.json lists; none where it is missing or damaged."""
    try:
        files = read_sealed(folder / EXPORT_FILE, older=True)["files"]
        return frozenset(str(file["file"]) for file in files)
    except (Damaged, OSError, LookupError, TypeError):
        return frozenset()


def _sidecar_damage(path: Path) -> Damaged | None:
    """Damage of the sealed file beside an engine that says what it was built from; None for other files."""
    if path.suffix != ".engine":
        return None
    from slimsight.export.engines.key import sidecar  # imports torch; most exports have no engine

    key_file = sidecar(path)
    try:
        read_sealed(key_file)
    except FileNotFoundError:
        return Damaged(key_file, "is gone")
    except Damaged as damage:
        return damage
    return None
