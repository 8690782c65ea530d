"""What a finished stage leaves behind to be told by: ``done.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from slimsight.compress.config import NonNegative, Section
from slimsight.compress.errors import Damaged, PruningError
from slimsight.compress.files.sealed import find_damage, read_sealed, write_sealed
from slimsight.compress.files.untrusted import path_inside

from .places import is_stage

RECORD = "done.json"


class StageRecord(Section):
    """What ``done.json`` holds, beside its seal.

    ``files``: size in bytes by path below the run directory; ``sha256`` of each (an earlier version: of some).
    ``inputs``: what each stage that it needs had given (its ``content``); an earlier version's record has none.
    """

    fingerprint: str
    seconds: NonNegative
    metrics: dict[str, Any]
    files: dict[str, int]
    sha256: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)

    @field_validator("inputs")
    @classmethod
    def _of_stages(cls, named: dict[str, str]) -> dict[str, str]:
        if not all(is_stage(name) for name in named):
            raise ValueError("an input is no stage")
        return named

    @field_validator("files", "sha256")
    @classmethod
    def _inside(cls, named: dict[str, Any]) -> dict[str, Any]:
        """What a record names may be removed: it lies in the run directory."""
        if any(path_inside(Path("/"), name) is None for name in named):
            raise ValueError("a file lies outside of the run directory")
        return named

    @property
    def content(self) -> str:
        """Changes with every byte of the stage's files and of the files of those that it needs."""
        text = json.dumps([self.sha256, self.inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def follows(self, inputs: Mapping[str, str]) -> bool:
        """Whether the stage was made from what the stages that it needs give now; an earlier version did not say."""
        return not self.inputs or self.inputs == inputs

    def damage(self, root: Path) -> Damaged | None:
        """What is wrong with the files below ``root``; sizes first, which cost nothing.

        Raises:
            OSError: a file is there and cannot be read.
        """
        for name, size in self.files.items():
            if (found := find_damage(root / name, size)) is not None:
                return found
        for name, expected in self.sha256.items():
            if (found := find_damage(root / name, sha256=expected)) is not None:
                return found
        return None


def write_record(folder: Path, record: StageRecord) -> None:
    """Write what says that a stage holds: the last of its files."""
    write_sealed(folder / RECORD, record.model_dump(mode="json"))


def read_record(folder: Path) -> StageRecord | None:
    """The record in ``folder``; None where there is none.

    Raises:
        Damaged: there is one, and it is not what was written.
    """
    place = folder / RECORD
    try:
        return StageRecord.model_validate(read_sealed(place, older=True))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(place, f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise Damaged(place, "was changed since it was written: it is no record of a stage") from error


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
