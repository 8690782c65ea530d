"""A finished stage's record: ``done.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from slimsight.compress.config import NonNegative, Section
from slimsight.compress.errors import Damaged, TrainingError
from slimsight.compress.files.sealed import find_damage, read_sealed, write_sealed
from slimsight.compress.files.untrusted import path_inside

from .paths import is_stage

RECORD = "done.json"
FINGERPRINT_VERSION = 2
"""Raised when fingerprints hold other facts, so that stages of an earlier version are known as such.

1: a sample of 64 images of training and validation, no test images, and of the model's code its own file.
2: every image of every split, and all files of the user's that the model's file imports.
"""


class StageRecord(Section):
    """The content of ``done.json``, without its seal.

    ``files``: size in bytes by path below the run directory; ``sha256`` of each (an earlier version: of some).
    ``fingerprint_version``: see ``FINGERPRINT_VERSION``.
    ``inputs``: the ``content`` of the record of each stage that it needs; empty in an earlier version's record.
    """

    fingerprint: str
    seconds: NonNegative
    metrics: dict[str, Any]
    files: dict[str, int]
    sha256: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    fingerprint_version: int = 1

    @field_validator("inputs")
    @classmethod
    def _are_stages(cls, inputs: dict[str, str]) -> dict[str, str]:
        if not all(is_stage(name) for name in inputs):
            raise ValueError("an input is not a stage name")
        return inputs

    @field_validator("files", "sha256")
    @classmethod
    def _are_inside(cls, by_file: dict[str, Any]) -> dict[str, Any]:
        """Refuse paths that lead out of the run directory: recorded files may be removed."""
        if any(path_inside(Path("/"), name) is None for name in by_file):
            raise ValueError("a file lies outside of the run directory")
        return by_file

    @property
    def content(self) -> str:
        """A SHA-256 over the stage's files and its inputs, thus over the files of all stages before it."""
        text = json.dumps([self.sha256, self.inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def follows(self, inputs: Mapping[str, str]) -> bool:
        """Whether the stage was made from these inputs; True of an earlier version's record, which has none."""
        return not self.inputs or self.inputs == inputs

    def damage(self, root: Path) -> Damaged | None:
        """The first damaged file below ``root``, or None; sizes are checked first, which is cheap.

        Raises:
            OSError: a file is there and cannot be read.
        """
        for name, size in self.files.items():
            if (damage := find_damage(root / name, size)) is not None:
                return damage
        for name, expected in self.sha256.items():
            if (damage := find_damage(root / name, sha256=expected)) is not None:
                return damage
        return None


def write_record(folder: Path, record: StageRecord) -> None:
    """Write the record of a stage into its ``folder``, after all its other files."""
    write_sealed(folder / RECORD, record.model_dump(mode="json"))


def read_record(folder: Path) -> StageRecord | None:
    """The record in ``folder``; None where there is none.

    Raises:
        Damaged: there is one, and it is not what was written.
    """
    path = folder / RECORD
    try:
        return StageRecord.model_validate(read_sealed(path, older=True))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(path, f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise Damaged(path, "was changed since it was written: it is not a stage record") from error


def check_finite(stage: str, metrics: Mapping[str, Any]) -> None:
    """Refuse metrics that are NaN or infinite, which JSON cannot hold.

    Raises:
        TrainingError: the stage diverged.
    """
    if first := next(_not_finite(metrics), None):
        raise TrainingError(f"stage '{stage}' ended with {first}: it diverged; lower its lr in the recipe")


def _not_finite(value: Any, where: str = "") -> Iterator[str]:
    """``name = nan`` for each NaN or infinity in ``value``."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}.{index}")
