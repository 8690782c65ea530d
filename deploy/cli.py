"""The command line, and the only place that turns errors into exit codes.

0 done and within budget; 1 a budget or check failed; 2 wrong usage or input; 130 interrupted, safe to rerun.
What is heavy (torch) is imported by the command that needs it: help and usage errors answer at once.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slimsight.compress.errors import Interrupted, SlimError
from slimsight.compress.memory import out_of_memory
from slimsight.compress.stop import Stop

from .commands import COMMANDS
from .commands.examples import SHOWN
from .console import ConsoleProgress
from .logs import LibraryMessages
from .processes import LOST, STOPPED, lost, speaks
from .signals import stopping
from .terminal import Terminal, console


class _Commands(TyperGroup):
    """Every way a command can end: one sentence on standard error (and in the run's log), and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        stop = Stop()
        with LibraryMessages() as libraries, ConsoleProgress() as progress, stopping(stop):
            ctx.obj = Terminal(progress, libraries, stop)
            try:
                return super().invoke(ctx)
            except SlimError as error:
                if speaks(error):
                    progress.error(str(error))
                code = error.exit_code
            except KeyboardInterrupt as error:
                if speaks(error):
                    progress.error(STOPPED)
                code = Interrupted.exit_code
            except RuntimeError as error:
                if not lost(error):
                    raise
                if speaks(error):
                    progress.error(LOST)
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
