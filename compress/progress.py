"""Progress reporting protocol (drawn by the command line), and the stop flag that training loops poll."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Protocol: progress of long stages. Implementations decide on the display."""

    def track(
        self, items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it", scale: int = 1
    ) -> Iterator[T]:
        """Yield ``items`` while showing rate and remaining time; one item counts ``scale`` units."""
        ...

    def show(self, **figures: float) -> None:
        """Show figures beside the current progress bar."""
        ...

    def note(self, text: str) -> None:
        """Print a line that stays on the screen and in the log."""
        ...


class Silent:
    """Progress that reports nothing: the default."""

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
    """Flag set on Ctrl-C or SIGTERM; training loops poll it, finish their step and save a checkpoint."""

    def __init__(self) -> None:
        self.wanted = False
        self.heeded = False
        """Whether a training loop polls ``wanted`` now; otherwise the signal must interrupt at once."""
