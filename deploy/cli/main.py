"""The command line, and the only place that turns errors into exit codes.

0 done and within budget; 1 a budget or check failed; 2 wrong usage or input; 130 interrupted, safe to rerun; 141 nobody
reads standard output.
What is heavy (torch) is imported by the command that needs it: help and usage errors answer at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slimsight.compress.errors import ConfigError, Interrupted, SlimError, out_of_memory
from slimsight.compress.files.destination import check_name
from slimsight.compress.files.untrusted import is_utf8, printable
from slimsight.compress.progress import Stop

from ..host import keep_freed_memory
from ..run.processes import INTERRUPTED_MESSAGE, PEER_LOST_MESSAGE, is_lost_peer, prints_errors
from . import COMMANDS
from .help import HELP
from .progress import ConsoleProgress
from .streams import finish_output, output_errors, prepare_streams
from .terminal import LibraryMessages, Terminal, console

_ARGUMENTS = "slimsight.arguments"


class _Commands(TyperGroup):
    """Turns every error into one sentence on standard error (and in the run's log) and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        with output_errors():  # --help and --version print here
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        stop = Stop()
        with LibraryMessages() as libraries, ConsoleProgress() as progress, stop_on_signals(stop):
            ctx.obj = Terminal(progress, libraries, stop)
            try:
                _refuse_foreign_names(ctx.meta[_ARGUMENTS])
                with output_errors():
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
            except OSError as error:  # not reported better elsewhere
                where = f"{error.filename}: " if error.filename else ""
                progress.error(f"{where}{error.strerror or error}; correct that and run the same command again")
                code = SlimError.exit_code
            except Exception as error:
                reason = out_of_memory(error)
                if reason is None:
                    raise
                progress.error(f"'slimsight {ctx.invoked_subcommand}' {reason}")
                code = SlimError.exit_code
        finish_output()
        raise typer.Exit(code)


def _refuse_foreign_names(arguments: Sequence[str]) -> None:
    """Refuse names that are not UTF-8 above the current folder and in ``arguments``: runtimes cannot open such files.

    Raises:
        ConfigError: names the folder, or the argument.
    """
    if not is_utf8(here := os.getcwd()):  # noqa: PTH109 - the name alone
        raise ConfigError(
            f"the current folder, {printable(here, 500)}, has a name that is not UTF-8: rename it, or work in another"
        )
    for given in arguments:
        check_name(given)


app = typer.Typer(
    cls=_Commands,
    help="Remove channels from trained image classifiers until they meet a budget; prove, export and time the result.",
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
    _help = HELP[_command.__name__]
    app.command(short_help=_help.short, epilog=_help.epilog)(_command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``slimsight``; leaves by ``SystemExit``."""
    keep_freed_memory()
    prepare_streams()
    app(arguments, prog_name="slimsight")  # whatever started it: completion goes by this name


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Context in which SIGINT and SIGTERM set ``stop``; KeyboardInterrupt the second time, or where nothing polls it.

    Signals that this process was started to ignore stay ignored (nohup, a shell's background jobs). Outside the main
    thread, where handlers cannot be set, nothing changes.
    """
    owner = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker: the default action
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
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
