"""Explanations as small pictures without words: what a page shows beside text that it writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from slimsight.compress.errors import RunError
from slimsight.compress.files import atomic_path, read_json, write_json
from slimsight.compress.untrusted import MEBIBYTE, read_bytes

from .part import Part

PANELS_FOLDER: Final = "panels"
_MOST: Final = 16 * MEBIBYTE  # of one picture

Kind = Literal["explained", "drifted"]


class Strip(Part):
    """A row of pictures of one image in ``file``, from left to right ``columns``.

    ``lines`` say what is known of it; ``wrong``: the slim model's prediction is not the label.
    """

    file: str
    title: str
    lines: tuple[str, ...] = ()
    wrong: bool
    columns: tuple[str, ...]


class Strips(Part):
    """The strips of one kind, in their order."""

    strips: tuple[Strip, ...]


def write_strips(root: Path, kind: Kind, strips: Sequence[tuple[Strip, bytes]]) -> None:
    """Write the strips of ``kind`` into the run directory ``root``: the pictures, then the list that names them."""
    folder = root / PANELS_FOLDER
    for strip, picture in strips:
        with atomic_path(folder / strip.file, durable=False) as part:
            part.write_bytes(picture)
    content = Strips(strips=tuple(strip for strip, _ in strips))
    write_json(folder / f"{kind}.json", content.model_dump(mode="json"))


def read_strips(root: Path, kind: Kind) -> list[tuple[Strip, bytes]]:
    """The strips of ``kind`` with their pictures; empty where the run has none.

    Raises:
        RunError: the list is not one, or a picture is missing.
    """
    path = root / PANELS_FOLDER / f"{kind}.json"
    if not path.is_file():
        return []
    try:
        found = Strips.model_validate(read_json(path))
        return [(strip, read_bytes(path.parent / Path(strip.file).name, _MOST)) for strip in found.strips]
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(
            f"{path} or a picture that it names is broken ({error}); run 'slimsight run' again to draw them anew"
        ) from error
