"""Trusted code: a ``file.py:factory`` or an engine is loaded unasked only if it was run or built here.

A run directory may come from a stranger, and its recipe may name a file that comes with it. Trusted code is recorded
outside of it, in the user's cache, by a digest of the file's path, its content and the factory.
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

_FOLDER = "ran-here"  # below the cache
_MAX_BYTES = 64 * MEBIBYTE


def remember_code(model: ModelConfig, cache: Path) -> None:
    """Record in ``cache`` that the user has run the file that ``model`` names, as it is now, if it names one.

    Raises:
        RunError: ``cache`` is not writable, or full.
    """
    if (key := _code_key(model)) is not None and not (cache / _FOLDER / key).exists():
        write_text(cache / _FOLDER / key, f"{model.name}\n")


def remember_engine(path: Path, cache: Path) -> None:
    """Record in ``cache`` that the engine at ``path`` was built here.

    Raises:
        RunError: ``cache`` is not writable, or full.
    """
    write_text(cache / _FOLDER / sha256_of_file(path), f"{path}\n")


def was_built_here(engine: Path, cache: Path | None = None) -> bool:
    """Whether ``remember_engine`` has recorded these bytes: opening an engine may run its code."""
    return ((cache or default_cache()) / _FOLDER / sha256_of_file(engine)).is_file()


def untrusted_code_reason(model: ModelConfig, cache: Path | None = None) -> str | None:
    """Why the code that ``model`` names is not run unasked; None where it names none, or it was run here before."""
    if not is_file_name(model.name):
        return None
    key = _code_key(model)
    if key is not None and ((cache or default_cache()) / _FOLDER / key).is_file():
        return None
    return (
        f"its model is code, {printable(model.name, 500)}, that was not run here as it is now: read that file, then "
        "give --allow-code, or 'slimsight run' its recipe"
    )


def load_run_recipe(run: RunDir, *, allow_code: bool = False, cache: Path | None = None) -> Recipe:
    """The recipe in a run directory, with its code checked: the caller builds its model.

    Args:
        allow_code: the user has given --allow-code: untrusted code may run.

    Raises:
        ConfigError: the recipe is not valid, or its model is untrusted code and ``allow_code`` is not given.
    """
    recipe = load_recipe(run.recipe)
    if not allow_code and (reason := untrusted_code_reason(recipe.model, cache)) is not None:
        raise ConfigError(f"{run.root} is not opened: {reason}")
    return recipe


def _code_key(model: ModelConfig) -> str | None:
    """A digest of path, content and factory of the file that ``model`` names; None where there is no such file."""
    if not is_file_name(model.name):
        return None
    path, factory = split_file_name(model.name)
    try:
        content = hashlib.sha256(read_bytes(path, _MAX_BYTES)).hexdigest()
    except OSError:
        return None
    return hashlib.sha256(f"{path}\0{factory}\0{content}".encode(errors="surrogateescape")).hexdigest()
