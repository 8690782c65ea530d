"""The command line, and the only place that turns errors into exit codes.

0 done and within budget; 1 a budget or check failed; 2 wrong usage or input; 130 interrupted, safe to rerun.
What is heavy (torch) is imported by the command that needs it: help and usage errors answer at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slimsight.compress.errors import Interrupted, SlimError, out_of_memory
from slimsight.compress.progress import Stop

from ..run.processes import INTERRUPTED_MESSAGE, PEER_LOST_MESSAGE, is_lost_peer, prints_errors
from . import COMMANDS
from .help import SHOWN
from .progress import ConsoleProgress
from .terminal import LibraryMessages, Terminal, console


class _Commands(TyperGroup):
    """Every way a command can end: one sentence on standard error (and in the run's log), and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        stop = Stop()
        with LibraryMessages() as libraries, ConsoleProgress() as progress, stopping(stop):
            ctx.obj = Terminal(progress, libraries, stop)
            try:
                return super().invoke(ctx)
            except SlimError as error:
                if prints_errors(error):
                    progress.error(str(error))
                code = error.exit_code
            except KeyboardInterrupt as error:
                if prints_errors(error):
                    progress.error(INTERRUPTED_MESSAGE)
                code = Interrupted.exit_code
            except RuntimeError as error:
                if not is_lost_peer(error):
                    raise
                if prints_errors(error):
                    progress.error(PEER_LOST_MESSAGE)
                code = Interrupted.exit_code
            except BrokenPipeError:
                raise  # `slimsight status RUN | head`: typer leaves quietly
            except OSError as error:  # what no other place could say better
                where = f"{error.filename}: " if error.filename else ""
                progress.error(f"{where}{error.strerror or error}; correct that and run the same command again")
                code = SlimError.exit_code
            except Exception as error:
                said = out_of_memory(error)
                if said is None:
                    raise
                progress.error(f"'slimsight {ctx.invoked_subcommand}' {said}")
                code = SlimError.exit_code
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Make trained vision models small enough for the edge, without changing what they look at.",
    no_args_is_help=True,
    epilog="\b\nThe three commands of a first run:\n"
    "  slimsight init my_model.py:build my_images    # writes recipe.yaml\n"
    "  slimsight run recipe.yaml                     # again: resumes\n"
    "  slimsight check runs/recipe --budget budget.yaml",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console().print(f"slimsight {version('slimsight')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """slimsight: slim, prove, export, time."""


for _command in COMMANDS:
    _shown = SHOWN[_command.__name__]
    app.command(short_help=_shown.short, epilog=_shown.epilog)(_command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``slimsight``; leaves by ``SystemExit``."""
    app(arguments, prog_name="slimsight")  # whatever started it: completion goes by this name


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Within the block these signals ask ``stop``; where nobody heeds it, and the second time, KeyboardInterrupt.

    Signals that this process was started to ignore stay ignored (nohup, a shell's background jobs). Outside the main
    thread, where handlers cannot be set, nothing changes.
    """
    owner = os.getpid()

    def asked(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker: it ends as if it had never heard of us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif stop.heeded and not stop.wanted:
            stop.wanted = True
        else:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
