"""Reads a page's inputs from a run directory: report, recipe, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.data.decode import DECODE_ERRORS, error_text, open_image
from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.untrusted import read_text

from ...settings.yaml_text import MOST_YAML, parse_yaml
from ..files import REPORT_FILE, Kind, Strip, read_report, read_strips
from ..markdown import DRIFT_PICTURE, SALIENCY_PICTURE
from ..schema import Report

_SHEET_WIDTH: Final = 1280  # pixels of an earlier version's picture, all images in one; twice what a column shows
_QUALITY: Final = 80


@dataclass(frozen=True)
class Picture:
    """An image inside the page: ``src`` is a data URI, sizes in pixels; ``alt``: its description."""

    src: str
    width: int
    height: int
    alt: str
    strip: Strip | None = None


@dataclass(frozen=True)
class RunPage:
    """A run as pages show it.

    Args:
        name: of its folder; ``path_name``: with the parent folder.
        recipe: text of recipe.yaml, ``settings`` its values by dotted name; empty where the folder has none.
        explained, drifted: a picture per image, or one of all from an earlier version.
    """

    name: str
    path_name: str
    report: Report
    recipe: str = ""
    settings: dict[str, Any] | None = None
    explained: Sequence[Picture] = ()
    drifted: Sequence[Picture] = ()


def read_page(path: Path) -> RunPage:
    """Read the run in folder ``path`` (or beside the report.json that it names).

    Raises:
        RunError: no finished report there, or a file beside it is broken.
        ConfigError: a report of another version.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist; give the folder of a run (the --out of 'slimsight run')")
    folder = path if path.is_dir() else path.parent
    report = read_report(folder / REPORT_FILE if path.is_dir() else path)
    text = _recipe_text(folder / "recipe.yaml")
    return RunPage(
        name=folder.resolve().name,
        path_name="/".join(folder.resolve().parts[-2:]),
        report=report,
        recipe=text,
        settings=_settings(text, folder),
        explained=_pictures(folder, "explained", SALIENCY_PICTURE),
        drifted=_pictures(folder, "drifted", DRIFT_PICTURE),
    )


def _recipe_text(path: Path) -> str:
    try:
        return read_text(path, MOST_YAML)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"cannot read {path} ({reason}); run 'slimsight run' again to write it anew") from error


def _settings(text: str, folder: Path) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        tree, _ = parse_yaml(text)
    except ConfigError as error:
        raise RunError(f"{folder / 'recipe.yaml'}: {error}; run 'slimsight run' again to write it anew") from error
    return dict(_dotted(tree, ()))


def _dotted(tree: Any, path: tuple[str, ...]) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [pair for key, value in tree.items() for pair in _dotted(value, (*path, str(key)))]
    return [(".".join(path), tree)]


def _pictures(folder: Path, kind: Kind, sheet: str) -> list[Picture]:
    strips = read_strips(folder, kind)
    if strips:
        return [_to_picture(data, _strip_alt(kind, strip), folder, strip) for strip, data in strips]
    if not (folder / sheet).is_file():
        return []
    alt = {
        "explained": "A row per image: the image, what the original model looks at, what the slim model looks at, and "
        "what remains of the image where the slim model does not look",
        "drifted": "The images whose explanations drifted most: each with what the original model looks at and what "
        "the slim model looks at",
    }[kind]
    return [_to_picture(_to_webp(folder / sheet), alt, folder)]


def _strip_alt(kind: Kind, strip: Strip) -> str:
    text = "; ".join((strip.title, *strip.lines))
    wrong = "; the slim model is wrong" if strip.wrong else ""
    seen = ", ".join(strip.columns)
    what = "Explanations" if kind == "explained" else "Explanations that drifted"
    return f"{what} side by side ({seen}): {text}{wrong}"


def _to_picture(data: bytes, alt: str, folder: Path, strip: Strip | None = None) -> Picture:
    try:
        with open_image(data) as image:
            width, height = image.size
    except DECODE_ERRORS as error:
        named = strip.file if strip else "its picture"
        raise RunError(f"{named} of {folder} is not an image; run 'slimsight run' again to draw it anew") from error
    return Picture(f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}", width, height, alt, strip)


def _to_webp(path: Path) -> bytes:
    """A PNG as WebP, at twice the width of a column."""
    try:
        with open_image(path) as image:
            shown = image.convert("RGB")
    except DECODE_ERRORS as error:
        raise RunError(
            f"{path} is not an image ({error_text(error)}); run 'slimsight run' again to draw it anew"
        ) from error
    shown.thumbnail((_SHEET_WIDTH, 16_000))
    file = io.BytesIO()
    shown.save(file, "WEBP", quality=_QUALITY, method=4)
    return file.getvalue()
