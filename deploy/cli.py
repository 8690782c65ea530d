"""The command line: the only place that prints, and the only one that turns errors into exit codes.

0 done and within budget; 1 a budget or check failed; 2 wrong usage or input; 130 interrupted, safe to rerun.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table

from compress.errors import BudgetExceeded, SlimError

from .budget import check_report, load_budget
from .console import ConsoleProgress
from .report import Report, Verdict, read_report
from .report.units import as_bytes, as_count, as_macs, as_percent, as_times, check_texts
from .run_dir import read_run

app = typer.Typer(
    help="Make trained vision models small enough for the edge, without changing what they look at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False)


@app.callback()
def _root() -> None:
    """slimsight: slim, prove, export, time."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="the recipe, e.g. configs/digits.yaml")],
    out: Annotated[Path | None, typer.Option(help="run directory; default: runs/<recipe's name>")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="override a setting")] = [],  # noqa: B006
    reuse: Annotated[Path | None, typer.Option(help="take finished stages over from this run")] = None,
) -> None:
    """Slim the recipe's model within its budget; prove, export, time and report. Run again to resume."""
    from .pipeline import run_recipe
    from .recipe import load_recipe

    loaded = load_recipe(recipe, set_)
    place = out or Path("runs") / recipe.stem
    with ConsoleProgress() as progress:
        report = run_recipe(
            loaded,
            place,
            name=recipe.name,
            reuse=reuse,
            progress=progress,
            on_open=lambda opened: progress.log_to(opened.log),
        )
    _print_summary(report)
    _out.print(f"report: {place / 'report.md'}", soft_wrap=True)
    _leave(report.verdict)


@app.command()
def check(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    budget: Annotated[Path, typer.Option(help="budget file (YAML)")],
) -> None:
    """Hold a run's report against a budget file; exit 1 if a check fails."""
    verdict = check_report(read_report(read_run(run_dir).report_json), load_budget(budget))
    _print_checks(verdict)
    _leave(verdict)


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]) -> None:
    """Which stages of a run are done, and whether a process is at it."""
    from .pipeline import to_stages
    from .recipe import load_recipe

    opened = read_run(run_dir)
    table = Table("stage", "state", "seconds", box=None, pad_edge=False)
    for stage in to_stages(load_recipe(opened.recipe)):
        record = opened.record(stage.name)
        table.add_row(stage.name, "done" if record else "-", f"{record.seconds:.0f}" if record else "")
    _out.print(table)
    if (writer := opened.writer()) is not None:
        _out.print(f"process {writer} is working on it")
    elif opened.report_json.is_file():
        _out.print(f"report: {opened.report_md}", soft_wrap=True)
    else:
        _out.print("nobody is working on it; run it again to go on")


def _print_summary(report: Report) -> None:
    before, after = report.original, report.slim
    table = Table("", "original", "slim", "change", box=None, pad_edge=False)
    table.add_row("MACs", as_macs(before.macs), as_macs(after.macs), f"{as_percent(after.macs / before.macs)} kept")
    table.add_row(
        "parameters",
        as_count(before.params),
        as_count(after.params),
        f"{as_percent(after.params / before.params)} kept",
    )
    table.add_row(
        "size",
        as_bytes(before.size_bytes),
        as_bytes(after.size_bytes),
        f"{as_percent(after.size_bytes / before.size_bytes)} kept",
    )
    for name, old, new in (
        ("validation", before.val_accuracy, after.val_accuracy),
        ("test", before.test_accuracy, after.test_accuracy),
    ):
        if old is not None and new is not None:
            table.add_row(name, as_percent(old), as_percent(new), f"{100 * (new - old):+.2f} points")
    for row in report.latency:
        speed = row.speedup
        table.add_row(
            f"median ms ({row.runtime}, batch {row.batch})",
            f"{row.original_ms.median:.3f}",
            f"{row.slim_ms.median:.3f}",
            f"{as_times(speed.median)} as fast ({as_times(speed.low)} to {as_times(speed.high)})",
        )
    _out.print(table)
    _print_checks(report.verdict)


def _print_checks(verdict: Verdict) -> None:
    signs = {"max": "at most", "min": "at least", "equal": "exactly"}
    for item in verdict.checks:
        limit, value = check_texts(item)
        reason = f" ({item.reason})" if item.reason else ""
        mark = "ok    " if item.passed else "FAILED"
        _out.print(f"{mark} {item.name}: {value}, {signs[item.bound]} {limit}{reason}", soft_wrap=True)


def _leave(verdict: Verdict) -> None:
    if not verdict.passed:
        count = len(verdict.failed)
        raise BudgetExceeded(f"{count} of {len(verdict.checks)} checks failed; see the lines marked FAILED")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of ``slimsight``."""
    try:
        code = app(arguments, standalone_mode=False)
    except SlimError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; run the same command again to go on: finished stages are kept")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    with ConsoleProgress() as progress:
        progress.error(text)
