"""Where a run keeps the checkpoints inside its stages, and how often it saves them."""

from __future__ import annotations

import os

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import Progress
from slimsight.compress.stop import Stop
from slimsight.compress.training import Checkpoints
from slimsight.compress.training.checkpoint import LEAST_SECONDS

from .run_dir import RunDir

VARIABLE = "SLIMSIGHT_CHECKPOINT_SECONDS"


def checkpoint_seconds() -> float:
    """Seconds between two checkpoints, at least: ``$SLIMSIGHT_CHECKPOINT_SECONDS``, else ``LEAST_SECONDS``.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return LEAST_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{VARIABLE} is '{text}'; give seconds, 0 for a checkpoint after every step, or unset it")
    return seconds


def open_checkpoints(run: RunDir, stage: str, key: str, stop: Stop | None, progress: Progress) -> Checkpoints:
    """Where the trainings of ``stage``, begun now, save and go on from.

    Args:
        key: the stage's fingerprint; what another one left there does not count.
        stop: a wish to stop, heeded by the stage's trainings.
    """
    return Checkpoints(run.checkpoints / stage, key, seconds=checkpoint_seconds(), stop=stop, progress=progress)
