"""One family of errors: each message says what was given, what is allowed and what to do."""

from __future__ import annotations

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
        self.path, self.how = path, how

    def remedied(self, remedy: str) -> Damaged:
        """The same, with what to do."""
        return Damaged(self.path, self.how, remedy)


class Interrupted(SlimError):
    """A run that something ended from outside; it is safe to run it again."""

    exit_code = 130


class BudgetExceeded(SlimError):
    """The work is done, but a budget or a check failed."""

    exit_code = 1
