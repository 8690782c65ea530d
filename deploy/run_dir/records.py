"""What a finished stage leaves behind to be told by: ``done.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.config import NonNegative, Section
from compress.errors import PruningError, RunError
from compress.untrusted import MOST_JSON, parse_json, printable, read_text, within

ARTEFACTS = (".onnx", ".pt2")
"""Files that leave the run: their content is recorded, not only their size."""


class StageRecord(Section):
    """What ``done.json`` holds. ``files``: size in bytes by path below the run directory; ``sha256``: of artefacts."""

    fingerprint: str
    seconds: NonNegative
    metrics: dict[str, Any]
    files: dict[str, int]
    sha256: dict[str, str] = Field(default_factory=dict)


def read_record(place: Path) -> StageRecord | None:
    """The record in ``place``; None where there is none that can be read.

    Raises:
        RunError: it names files outside of its run directory.
    """
    try:
        record = StageRecord.model_validate(parse_json(read_text(place, MOST_JSON)))
    except (OSError, ValueError):  # pydantic's ValidationError is one
        return None
    root = place.parents[2]
    for name in (*record.files, *record.sha256):
        if within(root, name) is None:
            raise RunError(
                f"{place} names the file '{printable(name)}', which is not below {root}: slimsight wrote no such run; "
                "do not use it"
            )
    return record


def check_finite(stage: str, metrics: Mapping[str, Any]) -> None:
    """Refuse figures that JSON cannot hold.

    Raises:
        PruningError: one is NaN or infinite: the stage did not converge.
    """
    if wrong := next(_not_finite(metrics), None):
        raise PruningError(f"stage '{stage}' ended with {wrong}: it did not converge; lower its lr in the recipe")


def _not_finite(value: Any, where: str = "") -> Iterator[str]:
    """``name = nan`` for every figure in ``value`` that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}.{index}")
