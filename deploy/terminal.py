"""What every command shows and ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.segment import Segment

from slimsight.compress.errors import BudgetExceeded
from slimsight.compress.stop import Stop
from slimsight.compress.untrusted import visible

from .console import ConsoleProgress
from .logs import LibraryMessages

if TYPE_CHECKING:
    from .report import Verdict
    from .run_dir import RunDir

AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="run code that came with the run: its model's file, its engines")
]

_WIDE = 160  # columns where there is no terminal: a log breaks no lines


class Terminal:
    """What a command shows and logs with; ``typer.Context.obj`` of every command."""

    def __init__(self, progress: ConsoleProgress, libraries: LibraryMessages, stop: Stop) -> None:
        self.progress = progress
        self.libraries = libraries
        self.stop = stop

    def log_to(self, run: RunDir) -> None:
        self.progress.log_to(run.log)
        self.libraries.to(run.log)


def console() -> Console:
    """Standard output as it is now; unlike a terminal, a file or a pipe has no width to keep to."""
    out = _Plain(highlight=False, markup=False)
    return out if out.is_terminal else _Plain(highlight=False, markup=False, width=_WIDE)


class _Plain(Console):
    """Prints names of anyone's so that a terminal, or a CI service that reads along, obeys none of them."""

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else Segment(visible(part.text), part.style)


def print_checks(verdict: Verdict) -> None:
    from .report.units import check_texts

    out = console()
    for item in verdict.checks:
        limit, value = check_texts(item)
        reason = f": {item.reason}" if item.reason else ""
        out.print(f"{'ok    ' if item.passed else 'FAILED'} {item.name}: {value} ({limit}){reason}", soft_wrap=True)


def leave(verdict: Verdict, report: Path) -> None:
    """The last line, passed or not: where the report is."""
    if not verdict.passed:
        failed, every = len(verdict.failed), len(verdict.checks)
        raise BudgetExceeded(f"{failed} of {every} checks failed, see the lines marked FAILED; report: {report}")
    console().print(f"report: {report}", soft_wrap=True)
