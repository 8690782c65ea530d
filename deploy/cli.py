"""The command line: the only place that prints, and the only one that turns errors into exit codes.

0 done and within budget; 1 a budget or check failed; 2 wrong usage or input; 130 interrupted, safe to rerun.
What is heavy (torch) is imported by the command that needs it: help and usage errors answer at once.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from compress.errors import BudgetExceeded, SlimError

from .console import ConsoleProgress
from .logs import LibraryMessages

if TYPE_CHECKING:
    from .inspection import Inspection
    from .report import Report, Verdict
    from .run_dir import RunDir

_INTERRUPTED = 130
_DEAREST = 10
_WIDE = 160  # columns where there is no terminal: a log breaks no lines


class _Terminal:
    """What a command shows and logs with; ``typer.Context.obj`` of every command."""

    def __init__(self, progress: ConsoleProgress, libraries: LibraryMessages) -> None:
        self.progress = progress
        self.libraries = libraries

    def log_to(self, run: RunDir) -> None:
        self.progress.log_to(run.log)
        self.libraries.to(run.log)


class _Commands(TyperGroup):
    """Every way a command can end: one sentence on standard error (and in the run's log), and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with LibraryMessages() as libraries, ConsoleProgress() as progress:
            ctx.obj = _Terminal(progress, libraries)
            try:
                return super().invoke(ctx)
            except SlimError as error:
                progress.error(str(error))
                code = error.exit_code
            except KeyboardInterrupt:
                progress.error("interrupted; the same command again goes on where it stopped")
                code = _INTERRUPTED
            except BrokenPipeError:
                raise  # `slimsight status RUN | head`: typer leaves quietly
            except OSError as error:  # what no other place could say better
                where = f"{error.filename}: " if error.filename else ""
                progress.error(f"{where}{error.strerror or error}; correct that and run the same command again")
                code = SlimError.exit_code
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Make trained vision models small enough for the edge, without changing what they look at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        _console().print(f"slimsight {version('slimsight')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """slimsight: slim, prove, export, time."""


@app.command()
def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="the recipe, e.g. configs/digits.yaml")],
    out: Annotated[Path | None, typer.Option(help="run directory; default: runs/<recipe's name>")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="override a setting")] = [],  # noqa: B006
    reuse: Annotated[Path | None, typer.Option(help="take finished stages over from this run")] = None,
) -> None:
    """Slim the recipe's model within its budget; prove, export, time and report. Run again to resume."""
    from .pipeline import run_recipe
    from .recipe import load_recipe

    terminal: _Terminal = context.obj
    loaded = load_recipe(recipe, set_)
    place = out or Path("runs") / recipe.stem
    report = run_recipe(
        loaded, place, name=recipe.name, reuse=reuse, progress=terminal.progress, on_open=terminal.log_to
    )
    _print_summary(report)
    _leave(report.verdict, place / "report.md")


@app.command()
def inspect(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="torchvision:NAME, timm:NAME, path/to/file.py:factory, or a run")],
    input_: Annotated[str, typer.Option("--input", metavar="CxHxW", help="one image, e.g. 3x224x224")],
    budget: Annotated[
        list[str], typer.Option(metavar="NAME=MOST", help="plan for it, prove the plan: macs=50%, params=1M, size=2MB")
    ] = [],  # noqa: B006
    align: Annotated[int, typer.Option(min=1, help="widths of the plan in multiples of this")] = 1,
    classes: Annotated[int, typer.Option(min=2, help="for a factory that takes their number")] = 1000,
    limit: Annotated[float, typer.Option(min=1, help="seconds for the proof of the groups")] = 300,
    json: Annotated[Path | None, typer.Option(help="write the findings to this file")] = None,
) -> None:
    """What can shrink in a model, what cannot and why, what costs most, and how small it can get. Learns nothing."""
    from compress.files import write_json

    from .inspection import inspect_model, load_model, read_limits, read_shape

    terminal: _Terminal = context.obj
    shape, wanted = read_shape(input_), read_limits(budget) if budget else None
    found = inspect_model(
        model, load_model(model, classes), shape, budget=wanted, align=align, limit=limit, progress=terminal.progress
    )
    if json is not None:
        write_json(json, found.to_dict())
    _print_inspection(found)


@app.command()
def check(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    budget: Annotated[Path, typer.Option(help="budget file (YAML)")],
) -> None:
    """Hold a run's report against a budget file; exit 1 if a check fails."""
    from .budget import check_report, load_budget
    from .report import read_report
    from .run_dir import read_run

    limits = load_budget(budget)
    verdict = check_report(read_report(read_run(run_dir).report_json), limits)
    _print_checks(verdict)
    _leave(verdict, run_dir / "report.md")


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]) -> None:
    """Which stages of a run are done, and whether a process is at it."""
    from .pipeline import to_stages
    from .recipe import load_recipe
    from .report.units import as_duration
    from .run_dir import read_run

    opened = read_run(run_dir)
    table = Table("stage", "state", "time", box=None, pad_edge=False)
    for stage in to_stages(load_recipe(opened.recipe)):
        record = opened.record(stage.name)
        table.add_row(stage.name, "done" if record else "-", as_duration(record.seconds) if record else "")
    out = _console()
    out.print(table)
    if (writer := opened.writer()) is not None:
        out.print(f"process {writer} is working on it")
    elif opened.report_json.is_file():
        out.print(f"report: {run_dir / opened.report_md.name}", soft_wrap=True)
    else:
        out.print("not finished, and no process is working on it; the same 'slimsight run' again goes on")


def _console() -> Console:
    """Standard output as it is now; unlike a terminal, a file or a pipe has no width to keep to."""
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=_WIDE)


def _print_inspection(found: Inspection) -> None:
    from .report.units import as_bytes, as_count, as_error, as_macs, as_percent

    out = _console()
    out.print(f"{found.model} at {'x'.join(map(str, found.input))}")
    facts = Table("", "", box=None, pad_edge=False, show_header=False)
    facts.add_row("MACs", as_macs(found.macs))
    facts.add_row("parameters", as_count(found.params))
    facts.add_row("size of the weights", as_bytes(found.size_bytes))
    facts.add_row("channel groups that can shrink", f"{found.groups}, proven in {found.seconds:.0f} s")
    facts.add_row(
        "smallest reachable", f"{as_macs(found.smallest_macs)} ({as_percent(found.smallest_macs / found.macs, 1)})"
    )
    out.print(facts)
    out.print("\nlayers that cost most")
    layers = Table("", "MACs", "share", box=None, pad_edge=False, show_header=False)
    for layer in found.layers[:_DEAREST]:
        layers.add_row(layer.name, as_macs(layer.macs), as_percent(layer.macs / found.macs, 1))
    out.print(layers)
    out.print(f"\nfrozen groups: {len(found.frozen_groups)}")
    for group in found.frozen_groups:
        out.print(f"  {group['name']}: {group['reason']}", soft_wrap=True)
    if (plan := found.plan) is not None:
        out.print("\nplan by magnitude")
        proof = Table("", "", box=None, pad_edge=False, show_header=False)
        proof.add_row("MACs", f"{as_macs(plan.macs)} ({as_percent(plan.macs_kept)} kept)")
        proof.add_row("parameters", f"{as_count(plan.params)} ({as_percent(plan.params / found.params, 1)} kept)")
        same = "the same" if plan.cost_model_macs == plan.fvcore_macs else "NOT the same"
        proof.add_row("cost model and fvcore", f"{same}: {plan.cost_model_macs:,} and {plan.fvcore_macs:,}")
        proof.add_row(
            "slim model against closed gates",
            f"{as_error(plan.max_rel)} in float64, {as_error(plan.max_rel_float32)} in float32 (relative)",
        )
        out.print(proof)


def _print_summary(report: Report) -> None:
    from .report.units import as_bytes, as_count, as_macs, as_ms, as_percent, as_times

    before, after = report.original, report.slim
    table = Table("", "original", "slim", "", box=None, pad_edge=False)
    for name, old, new, as_text in (
        ("MACs", before.macs, after.macs, as_macs),
        ("parameters", before.params, after.params, as_count),
        ("size of the weights", before.size_bytes, after.size_bytes, as_bytes),
    ):
        table.add_row(name, as_text(old), as_text(new), f"{as_percent(new / old)} kept")
    for name, was, now in (
        ("validation accuracy", before.val_accuracy, after.val_accuracy),
        ("test accuracy", before.test_accuracy, after.test_accuracy),
    ):
        if was is not None and now is not None:
            table.add_row(name, as_percent(was), as_percent(now), f"{100 * (now - was):+.2f} points")
    for row in report.latency:
        speed = row.speedup
        change = f"{as_times(speed.median)} as fast ({as_times(speed.low)} to {as_times(speed.high)})"
        table.add_row(f"latency, batch {row.batch}", as_ms(row.original_ms.median), as_ms(row.slim_ms.median), change)
    if (found := report.saliency) is not None:
        table.add_row("explanations", "", f"moved {found.center_drift_px:.2f} px", f"{as_percent(found.iou)} overlap")
    out = _console()
    out.print(table)
    out.print()
    _print_checks(report.verdict)


def _print_checks(verdict: Verdict) -> None:
    from .report.units import check_texts

    out = _console()
    for item in verdict.checks:
        limit, value = check_texts(item)
        reason = f": {item.reason}" if item.reason else ""
        out.print(f"{'ok    ' if item.passed else 'FAILED'} {item.name}: {value} ({limit}){reason}", soft_wrap=True)


def _leave(verdict: Verdict, report: Path) -> None:
    """The last line, passed or not: where the report is."""
    if not verdict.passed:
        failed, every = len(verdict.failed), len(verdict.checks)
        raise BudgetExceeded(f"{failed} of {every} checks failed, see the lines marked FAILED; report: {report}")
    _console().print(f"report: {report}", soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``slimsight``; leaves by ``SystemExit``."""
    app(arguments)
