"""Whose code a run directory may start: that of a ``file.py:factory`` that somebody here has typed ``run`` for.

A run directory comes from anywhere, and its recipe may name a file that comes with it. What was run here is remembered
outside of it, in the user's cache: the place of the file, its content and the factory, all three.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.atomic import write_text
from slimsight.compress.files.sealed import sha256_of_file
from slimsight.compress.files.untrusted import MEBIBYTE, printable, read_bytes
from slimsight.compress.models.user_code import is_file_name, split_file_name

from ..host import default_cache
from ..settings.recipe import Recipe, load_recipe
from . import RunDir

_FOLDER = "ran-here"
_MOST = 64 * MEBIBYTE


def remember_code(model: ModelConfig, cache: Path) -> None:
    """Note that a user of this cache has run the file that ``model`` names, as it is now; nothing where it names none.

    Raises:
        RunError: ``cache`` is not writable, or full.
    """
    if (key := _key(model)) is not None and not (cache / _FOLDER / key).exists():
        write_text(cache / _FOLDER / key, f"{model.name}\n")


def remember_engine(path: Path, cache: Path) -> None:
    """Note that the engine at ``path`` was built here.

    Raises:
        RunError: ``cache`` is not writable, or full.
    """
    write_text(cache / _FOLDER / sha256_of_file(path), f"{path}\n")


def was_built_here(engine: Path, cache: Path | None = None) -> bool:
    """Whether an engine is, byte for byte, one that ``remember_engine`` was told of: opening one may run its code."""
    return ((cache or default_cache()) / _FOLDER / sha256_of_file(engine)).is_file()


def foreign_code(model: ModelConfig, cache: Path | None = None) -> str | None:
    """Why the code that ``model`` names is not started unasked; None where it names none, or was run here before."""
    if not is_file_name(model.name):
        return None
    key = _key(model)
    if key is not None and ((cache or default_cache()) / _FOLDER / key).is_file():
        return None
    return (
        f"its model is code, {printable(model.name, 500)}, that was not run here as it is now: read that file, then "
        "give --allow-code, or 'slimsight run' its recipe"
    )


def load_run_recipe(run: RunDir, *, allow_code: bool = False, cache: Path | None = None) -> Recipe:
    """The recipe in a run directory, for those who build its model.

    Args:
        allow_code: the user has typed that code may run that a stranger may have put there.

    Raises:
        ConfigError: the recipe cannot be used, or its model is code that was not run here and is not allowed.
    """
    recipe = load_recipe(run.recipe)
    if not allow_code and (reason := foreign_code(recipe.model, cache)) is not None:
        raise ConfigError(f"{run.root} is not opened: {reason}")
    return recipe


def _key(model: ModelConfig) -> str | None:
    """Of the file where it lies, what is in it and the factory; None where there is no such file."""
    if not is_file_name(model.name):
        return None
    path, factory = split_file_name(model.name)
    try:
        content = hashlib.sha256(read_bytes(path, _MOST)).hexdigest()
    except OSError:
        return None
    return hashlib.sha256(f"{path}\0{factory}\0{content}".encode(errors="surrogateescape")).hexdigest()
