"""Reads and writes report.json, and the panels of explanations that pages show."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.atomic import atomic_path, read_json, write_json
from slimsight.compress.files.untrusted import MEBIBYTE, MOST_JSON, parse_json, printable, read_bytes, read_text

from .parts import ReportPart
from .schema import SCHEMA, Report

REPORT_FILE = "report.json"


def write_report(path: Path, report: Report) -> None:
    """Write report.json atomically."""
    write_json(path, report.model_dump(mode="json", by_alias=True))


def read_report(path: Path) -> Report:
    """Read the report at ``path``: a report.json, or a run directory that holds one.

    Raises:
        RunError: no report there, or not one that slimsight wrote.
        ConfigError: another schema number.
    """
    path = path / REPORT_FILE if path.is_dir() else path
    remedy = "run 'slimsight run' again to write it anew"
    try:
        text = read_text(path, MOST_JSON)
        content = parse_json(text)
    except FileNotFoundError:
        raise RunError(f"no report at {path}: the run has not finished; run 'slimsight run' to complete it") from None
    except OSError as error:
        raise RunError(f"cannot read the report {path}: {error.strerror}; check the file and its rights") from error
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise RunError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise RunError(f"{path} is not a slimsight report: it has no 'schema'; give a report.json or its run directory")
    if content["schema"] != SCHEMA or isinstance(content["schema"], bool):
        raise ConfigError(
            f"{path} has report schema {reprlib.repr(content['schema'])}, this slimsight reads schema {SCHEMA}; "
            "read it with the version that wrote it"
        )
    try:
        return Report.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [f"{printable('.'.join(map(str, e['loc']))) or 'report'}: {e['msg']}" for e in error.errors()]
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise RunError(f"{path} does not hold a report ({'; '.join(problems[:3])}{more}); {remedy}") from error


PANELS_FOLDER: Final = "panels"
_PANEL: Final = re.compile(r"(explained|drifted)(\.json|-[0-9]+\.webp)")
_PICTURE_LIMIT: Final = 16 * MEBIBYTE

Kind = Literal["explained", "drifted"]


class Strip(ReportPart):
    """A row of pictures of one image in ``file``, from left to right ``columns``.

    ``lines`` are printed below it; ``wrong``: the slim model's prediction is not the label.
    """

    file: str
    title: str
    lines: tuple[str, ...] = ()
    wrong: bool
    columns: tuple[str, ...]


class Strips(ReportPart):
    """All strips of one kind, in order."""

    strips: tuple[Strip, ...]


def panel_files(root: Path) -> list[Path]:
    """The files that ``write_strips`` wrote below the run directory ``root``; others in their folder are the user's."""
    return sorted(path for path in (root / PANELS_FOLDER).glob("*") if _PANEL.fullmatch(path.name))


def write_strips(root: Path, kind: Kind, strips: Sequence[tuple[Strip, bytes]]) -> None:
    """Write the strips of ``kind`` into the run directory ``root``: the pictures, then the list that names them."""
    folder = root / PANELS_FOLDER
    for strip, picture in strips:
        with atomic_path(folder / strip.file, durable=False) as part:
            part.write_bytes(picture)
    content = Strips(strips=tuple(strip for strip, _ in strips))
    write_json(folder / f"{kind}.json", content.model_dump(mode="json"))


def read_strips(root: Path, kind: Kind) -> list[tuple[Strip, bytes]]:
    """Read the strips of ``kind`` with their pictures; empty where the run has none.

    Raises:
        RunError: the list is not one, or a picture is missing.
    """
    path = root / PANELS_FOLDER / f"{kind}.json"
    if not path.is_file():
        return []
    try:
        listed = Strips.model_validate(read_json(path))
        return [(strip, read_bytes(path.parent / Path(strip.file).name, _PICTURE_LIMIT)) for strip in listed.strips]
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(
            f"{path} or a picture that it names is broken ({error}); run 'slimsight run' again to draw them anew"
        ) from error
