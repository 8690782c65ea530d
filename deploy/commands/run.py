"""``slimsight run``: a recipe and its images in; slim model, artefacts and report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..terminal import Terminal, console, leave, print_checks

if TYPE_CHECKING:
    from ..report import Report


def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="the recipe, e.g. configs/digits.yaml")],
    out: Annotated[Path | None, typer.Option(help="run directory; default: runs/<recipe's name>")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a setting")] = None,
    reuse: Annotated[Path | None, typer.Option(help="take finished stages over from this run")] = None,
) -> None:
    """Slim the recipe's model within its budget; prove, export, time and report. Run again to resume."""
    from ..pipeline import run_recipe
    from ..recipe import load_recipe

    terminal: Terminal = context.obj
    loaded = load_recipe(recipe, set_ or ())
    place = out or Path("runs") / recipe.stem
    report = run_recipe(
        loaded, place, name=recipe.name, reuse=reuse, progress=terminal.progress, on_open=terminal.log_to
    )
    _print_summary(report)
    leave(report.verdict, place / "report.md")


def _print_summary(report: Report) -> None:
    from ..report.units import as_bytes, as_count, as_macs, as_ms, as_percent, as_times

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
    out = console()
    out.print(table)
    out.print()
    print_checks(report.verdict)
