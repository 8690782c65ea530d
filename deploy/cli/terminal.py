"""What commands print with: standard output, a verdict's lines, and library messages kept off the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from slimsight.compress.errors import BudgetExceeded
from slimsight.compress.files.untrusted import escape_controls
from slimsight.compress.progress import Stop

from .progress import ConsoleProgress

if TYPE_CHECKING:
    from ..report import Verdict
    from ..run_dir import RunDir


_FORMAT, _TIME = "%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"


class _EscapingFormatter(logging.Formatter):
    """Escapes control characters of messages and of the traces below them."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


class _LogFile(logging.FileHandler):
    """A log file whose write errors are ignored: a full disk must not end a run because of its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is still in the buffer
            super().close()


class LibraryMessages:
    """Context that keeps libraries' logs and warnings off the terminal; ``to`` names a file that gets them.

    Enter it before the libraries are imported: Lightning prints by itself unless a handler is there already.
    """

    def __init__(self) -> None:
        self._handlers: list[logging.Handler] = [logging.NullHandler()]

    def __enter__(self) -> Self:
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handlers[0])
        return self

    def to(self, path: Path) -> None:
        """Append every message from now on to ``path``."""
        handler = _LogFile(path, encoding="utf-8", delay=True)
        handler.setFormatter(_EscapingFormatter(_FORMAT, _TIME))
        self._handlers.append(handler)
        logging.getLogger().addHandler(handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        logging.captureWarnings(False)


AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="run code that came with the run: its model's file, its engines")
]

_COLUMNS_OF_FILES = 160  # without a terminal: lines in a log are not broken


class Terminal:
    """What a command shows and logs with; ``typer.Context.obj`` of every command."""

    def __init__(self, progress: ConsoleProgress, libraries: LibraryMessages, stop: Stop) -> None:
        self.progress = progress
        self.libraries = libraries
        self.stop = stop

    def log_to(self, run: RunDir) -> None:
        self.progress.log_to(run.log, run.progress)
        self.libraries.to(run.log)


def console() -> Console:
    """Standard output as it is now; unlike a terminal, a file or a pipe has no width to keep to."""
    out = _EscapingConsole(highlight=False, markup=False)
    return out if out.is_terminal else _EscapingConsole(highlight=False, markup=False, width=_COLUMNS_OF_FILES)


class _EscapingConsole(Console):
    """Escapes control characters: no printed name can command a terminal or a CI service."""

    def on_broken_pipe(self) -> None:
        raise  # rich handles a BrokenPipeError here, and would exit with 1

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_controls(text), **options)  # before rich drops some of them

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else Segment(escape_controls(part.text), part.style)


def print_checks(verdict: Verdict) -> None:
    """One line for each check, with its value and limit."""
    from ..report.rows import unjudged
    from ..report.units import check_texts

    out = console()
    for item in verdict.checks:
        limit, value = check_texts(item)
        reason = f": {item.reason}" if item.reason else ""
        out.print(f"{'ok    ' if item.passed else 'FAILED'} {item.name}: {value} ({limit}){reason}", soft_wrap=True)
    if (open_question := unjudged(verdict)) is not None:
        out.print(open_question)
    for note in verdict.notes or ():
        out.print(f"note: {note}", soft_wrap=True)
    for remedy in dict.fromkeys(item.remedy for item in verdict.failed if item.remedy):
        out.print(f"what to change: {remedy}", soft_wrap=True)


def end_with_verdict(verdict: Verdict, report: Path) -> None:
    """Print where the report is as the last line.

    Raises:
        BudgetExceeded: a check failed.
    """
    if not verdict.passed:
        failed, checks = len(verdict.failed), len(verdict.checks)
        raise BudgetExceeded(f"{failed} of {checks} checks failed, see the lines marked FAILED; report: {report}")
    console().print(f"report: {report}", soft_wrap=True)
