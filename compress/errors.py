"""One family of errors: each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SlimError(Exception):
    """Base of everything slimsight raises for its users; ``exit_code`` is the command line's answer."""

    exit_code = 2


class ConfigError(SlimError):
    """A recipe, an option or a budget file that cannot be used."""


class DataError(SlimError):
    """Images that are missing, corrupt or do not fit the model."""


class ModelError(SlimError):
    """A model that cannot be built, or weights that do not fit it."""


class PruningError(SlimError):
    """Nothing can shrink, the budget is out of reach, or a stage of learning did not converge."""


class ExportError(SlimError):
    """An artefact that cannot be written, or that does not compute what the model computes."""


class RuntimeMissing(ExportError):
    """A runtime, provider, driver or compiler that this machine lacks: nothing is wrong with the artefact."""


class RunError(SlimError):
    """A run directory that is busy, full or not ours."""


class Damaged(RunError):
    """A file that is not what was written: cut off, changed or gone. ``path``: which; ``how``: in words.

    ``remedy`` says what to do; whoever knows the command that writes the file anew gives it (``remedied``).
    """

    def __init__(self, path: Path, how: str, remedy: str = "") -> None:
        super().__init__(f"{path} {how}" + (f"; {remedy}" if remedy else ""))
        self.path, self.how, self._remedy = path, how, remedy

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str, str]]:
        return Damaged, (self.path, self.how, self._remedy)  # an exception pickles its message alone

    def remedied(self, remedy: str) -> Damaged:
        """The same, with what to do."""
        return Damaged(self.path, self.how, remedy)


class Interrupted(SlimError):
    """A run that something ended from outside; it is safe to run it again."""

    exit_code = 130


class BudgetExceeded(SlimError):
    """The work is done, but a budget or a check failed."""

    exit_code = 1


_ON_DEVICE = ("CUDA out of memory", "CUDA error: out of memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC")
_ON_HOST = ("DefaultCPUAllocator", "can't allocate memory", "bad_alloc", "bad allocation", "Cannot allocate memory")
_WORKER = "DataLoader worker"  # torch says so of a process that ended by itself


def out_of_memory(error: BaseException) -> str | None:
    """Which memory ran out, or whose process was killed; None: ``error`` says something else.

    Messages, not types, tell most of them: torch raises RuntimeError, and no runtime is imported here.
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
    """Say in one sentence that ``what`` ran out of memory; other errors pass.

    Raises:
        RunError: it did, or one of its processes was killed.
    """
    try:
        yield
    except Exception as error:
        said = out_of_memory(error)
        if said is None:
            raise
        raise RunError(f"{what} {said}: what was finished is kept") from error
