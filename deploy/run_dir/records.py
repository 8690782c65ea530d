"""What a finished stage leaves behind to be told by: ``done.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from compress.config import Section
from compress.errors import PruningError

ARTEFACTS = (".onnx", ".pt2")
"""Files that leave the run: their content is recorded, not only their size."""


class StageRecord(Section):
    """What ``done.json`` holds. ``files``: size in bytes by path below the run directory; ``sha256``: of artefacts."""

    fingerprint: str
    seconds: float
    metrics: dict[str, Any]
    files: dict[str, int]
    sha256: dict[str, str] = Field(default_factory=dict)


def read_record(place: Path) -> StageRecord | None:
    """The record in ``place``; None where there is none that can be read."""
    try:
        return StageRecord.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None


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
