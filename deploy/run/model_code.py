"""The user's files that make a run's model: the model's file, and those that it imports or reads, by content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.sealed import sha256_of_file
from slimsight.compress.models.user_code import is_file_name, needed_files, split_file_name


@dataclass(frozen=True)
class ModelCode:
    """Files of one model, as they were when it was first built.

    Attributes:
        file: sha256 of the model's file; None for a model that no file of the user's makes.
        needed: path and sha256 of each file of the user's that it imports or reads, or that ``model.files`` names, by
            module name or relative path.
    """

    path: Path | None = None
    file: str | None = None
    needed: Mapping[str, tuple[Path, str | None]] | None = None

    @classmethod
    def of(cls, config: ModelConfig, classes: int) -> ModelCode:
        """The code of a recipe's model; it is built once.

        Raises:
            ConfigError, ModelError: it cannot be built, or ``model.files`` names what is no file, or is for no code.
        """
        if not is_file_name(config.name):
            if config.files:
                raise ConfigError(
                    f"model.files names {config.files[0]} and model.name is {config.name}, which is no code of yours: "
                    "leave model.files out, or give model.name path/to/file.py:factory"
                )
            return cls()
        path, _ = split_file_name(config.name)
        named = {}
        for file in config.files:
            if not file.is_file():
                raise ConfigError(f"model.files: there is no file {file}; name each file, not its folder")
            named[Path(os.path.relpath(file, path.parent)).as_posix()] = (file, sha256_of_content(file))
        return cls(path, sha256_of_content(path), {**named, **needed_files(config.name, classes)})

    @property
    def digests(self) -> dict[str, str | None]:
        """sha256 of what the model's file imports or reads, by module name or relative path."""
        return {name: digest for name, (_, digest) in (self.needed or {}).items()}

    def check_unchanged(self, stage: str) -> None:
        """Refuse to record ``stage`` once a file has changed: part of it may be of the code before, part of that after.

        Raises:
            RunError: a file changed; it is named.
        """
        files = [] if self.path is None else [(self.path, self.file), *(self.needed or {}).values()]
        for path, digest in files:
            if sha256_of_content(path) != digest:
                raise RunError(
                    f"{path} changed while stage '{stage}' ran, so its result is of no one version of the model; run "
                    "again: what the new code decides is done anew"
                )


def sha256_of_content(path: Path) -> str | None:
    """sha256 of a file; None if there is none (what reads the file reports that)."""
    return sha256_of_file(path) if path.is_file() else None
