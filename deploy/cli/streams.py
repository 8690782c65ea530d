"""Standard output and standard error as they are found: closed, full, a pipe without a reader, or not in UTF-8."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

from slimsight.compress.errors import SlimError

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code where standard output was closed (``| head -1``): what shells give for programs that SIGPIPE ends."""


def prepare_streams() -> None:
    """Give the program streams that take every character; what a closed one gets goes nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as we run
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


def drop_stream(stream: TextIO) -> None:
    """Send what ``stream`` could not write, and all that follows, nowhere: Python writes the rest when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def output_errors() -> Iterator[None]:
    """Context: ends the program by an exit code where standard output takes no more; what is buffered is written.

    Raises:
        typer.Exit: nobody reads it (``NOBODY_READS``), or it cannot be written: that is said.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        drop_stream(sys.stdout)
        raise typer.Exit(NOBODY_READS) from error
    except OSError as error:
        if error.filename is not None or not _output_fails():
            raise
        drop_stream(sys.stdout)
        typer.echo(
            f"error: standard output cannot be written: {error.strerror}; send it somewhere else, or free some space",
            err=True,
        )
        raise typer.Exit(SlimError.exit_code) from error


def finish_output() -> None:
    """Write what standard output still holds; where it cannot, drop it: the exit code is that of another error."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_stream(sys.stdout)


def _output_fails() -> bool:
    """Whether standard output takes no more, not even the end of a line."""
    try:
        typer.echo()
    except OSError:
        return True
    return False
