"""Exceptions raised for users, and recognising errors of exhausted memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SlimError(Exception):
    """Base class; messages say what was given, what is allowed and what to do. ``exit_code``: of the command line."""

    exit_code = 2


class ConfigError(SlimError):
    """A recipe, an option or a budget file that cannot be used."""


class DataError(SlimError):
    """Images that are missing, corrupt or do not fit the model."""


class BrokenImage(DataError):
    """A file that should be an image and cannot be decoded; ``all_named``: others were looked for, and are named."""

    def __init__(self, message: str, *, all_named: bool = False) -> None:
        super().__init__(message)
        self.all_named = all_named


class ModelError(SlimError):
    """A model that cannot be built, or weights that do not fit it."""


class PruningError(SlimError):
    """Nothing can shrink, a budget is out of reach, or gates or an explainer did not converge."""


class ExplainerRefused(PruningError):
    """An explainer that explains nothing: it collapsed, or is no better than masks that know nothing of the image.

    Attributes:
        step, steps: when its training was stopped, and how many steps were planned; None: it learned to the end.
        seconds_saved: estimated time of the steps that were left.
    """

    def __init__(
        self, message: str, *, step: int | None = None, steps: int | None = None, seconds_saved: float | None = None
    ) -> None:
        super().__init__(message)
        self.step, self.steps, self.seconds_saved = step, steps, seconds_saved


class TrainingError(SlimError):
    """A training diverged: its loss or a weight is NaN or infinite."""


class ExportError(SlimError):
    """An artefact that cannot be written, or that does not compute what the model computes."""


class RuntimeMissing(ExportError):
    """A runtime, provider, driver or compiler that this machine lacks: nothing is wrong with the artefact."""


class Unsupported(RuntimeMissing):
    """A valid file with something that a runtime does not take, an operator mostly: nothing is wrong with either."""


class RunError(SlimError):
    """A run directory that is busy, full or not slimsight's, or a process that ran out of memory."""


class Damaged(RunError):
    """A file that differs from what was written: truncated, changed or missing. ``how``: in words.

    ``remedy``: what to do, given by code that knows which command writes the file anew (``remedied``).
    """

    def __init__(self, path: Path, how: str, remedy: str = "") -> None:
        super().__init__(f"{path} {how}" + (f"; {remedy}" if remedy else ""))
        self.path, self.how, self._remedy = path, how, remedy

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str, str]]:
        return Damaged, (self.path, self.how, self._remedy)  # an exception pickles its message alone

    def remedied(self, remedy: str) -> Damaged:
        """The same error with ``remedy``."""
        return Damaged(self.path, self.how, remedy)


class Interrupted(SlimError):
    """A run that was ended from outside; it is safe to run it again."""

    exit_code = 130


class BudgetExceeded(SlimError):
    """The work is done, but a budget or a check is not met."""

    exit_code = 1


_ON_DEVICE = ("CUDA out of memory", "CUDA error: out of memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC")
_ON_HOST = ("DefaultCPUAllocator", "can't allocate memory", "bad_alloc", "bad allocation", "Cannot allocate memory")
_WORKER = "DataLoader worker"  # in torch's message about a worker process that died


def out_of_memory(error: BaseException) -> str | None:
    """Which memory ran out, or that a worker process was killed, with a remedy; None for other errors.

    Recognised mostly by message: torch raises plain RuntimeError, and no runtime is imported here.
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(sign in text for sign in _ON_DEVICE):
        return "ran out of GPU memory; lower its batch_size and run again"
    if isinstance(error, MemoryError) or any(sign in text for sign in _ON_HOST):
        return "ran out of memory; lower its batch_size, or free memory, and run again"
    if type(error).__name__ == "BrokenProcessPool" or (isinstance(error, RuntimeError) and _WORKER in text):
        return (
            "lost a worker process, which was killed (mostly by a system that has no memory left); free memory or take "
            "fewer workers, and run again"
        )
    return None


@contextmanager
def report_out_of_memory(what: str) -> Iterator[None]:
    """Context: turns an out-of-memory error in ``what`` into a one-sentence RunError; other errors pass.

    Raises:
        RunError: memory ran out, or a worker process was killed.
    """
    try:
        yield
    except Exception as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
        raise RunError(f"{what} {reason}: what was finished is kept") from error


def first_error_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
