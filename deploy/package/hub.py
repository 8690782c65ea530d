"""Uploads a package's folder to the Hugging Face Hub, where the user asks for it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ConfigError, RunError, first_error_line
from slimsight.compress.files.untrusted import printable

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_repository(repository: str) -> Any:
    """The module huggingface_hub, for an upload to ``repository``; before any work.

    Raises:
        ConfigError: it is not the name of a repository, or huggingface_hub is not installed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push-to-hub is '{printable(repository)}': give OWNER/NAME, e.g. me/my-model")
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(
            "--push-to-hub needs huggingface_hub, which is not installed: pip install 'slimsight[hub]', and log in "
            "with 'hf auth login'"
        ) from error


def push_to_hub(folder: Path, repository: str, names: tuple[str, ...]) -> str:
    """Upload the files ``names`` in ``folder`` to a repository, made private if it is new; returns its address.

    Raises:
        ConfigError: as ``check_repository``.
        RunError: the Hub refuses it, or cannot be reached.
    """
    hub = check_repository(repository)
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(names))
    except (OSError, ValueError, RuntimeError, hub.errors.HfHubHTTPError) as error:
        raise RunError(
            f"{folder} is written, and the upload to {repository} failed ({first_error_line(error)}): log in with "
            "'hf auth login', and give the same command with --force"
        ) from error
    return f"https://huggingface.co/{repository}"
