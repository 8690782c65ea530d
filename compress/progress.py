"""How long stages tell where they are. The command line draws; everything below it only reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a long stage may say. Implementations decide how it looks."""

    def track(
        self, items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it", scale: int = 1
    ) -> Iterator[T]:
        """Yield ``items`` while showing rate and remaining time; one item counts ``scale`` units."""
        ...

    def show(self, **figures: float) -> None:
        """Figures to stand beside the bar that runs now."""
        ...

    def note(self, text: str) -> None:
        """One line that stays on the screen and in the log."""
        ...


class Silent:
    """Reports nothing: the default of every function."""

    def track(
        self, items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it", scale: int = 1
    ) -> Iterator[T]:
        del what, total, unit, scale
        yield from items

    def show(self, **figures: float) -> None:
        del figures

    def note(self, text: str) -> None:
        del text


SILENT: Progress = Silent()


class Stop:
    """A training that heeds it ends the step in progress and saves a checkpoint; all else has to stop at once."""

    def __init__(self) -> None:
        self.wanted = False
        self.heeded = False
        """Whether someone looks at ``wanted`` after every step."""
