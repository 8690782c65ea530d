"""``slimsight report`` and ``status``: the page of finished runs, and which stages of a run are done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from slimsight.compress.amounts import as_duration
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.destination import check_file_destination

from .terminal import console

_MAX_PROGRESS_BYTES = 10_000


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run directories; several are compared")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="default: report.html in the run, comparison.html here for several"),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="what verify.py of a package wrote on a device: kept in the run; repeatable"),
    ] = None,
) -> None:
    """Write the report as one HTML file that opens from disk: of a run, or of several side by side."""
    from ..report.html import COMPARISON_FILE, write_comparison, write_run
    from ..run.resume import check_run_undamaged, rewrite_page

    _check_arguments(runs, out)
    for run in runs:
        check_run_undamaged(run)
    if measured:
        from ..run.measured import add_measured

        if len(runs) > 1:
            raise ConfigError(f"--measured is of one run, and {len(runs)} are given: give that run alone")
        add_measured(runs[0], measured)
    if len(runs) > 1:
        path = write_comparison(runs, out or Path(COMPARISON_FILE))
    else:
        path = rewrite_page(runs[0]) if out is None else write_run(runs[0], out)
    console().print(f"report: {path}", soft_wrap=True)


def _check_arguments(runs: list[Path], out: Path | None) -> None:
    if out is not None:
        check_file_destination(out, "--out", "report.html")
    seen: set[Path] = set()
    for run in runs:
        place = run.resolve()
        if place in seen:
            raise ConfigError(f"{run} is given twice; give every run that is to be compared once")
        seen.add(place)


def _current_step(path: Path) -> str:
    """``: stage 5 of 10: gates; gates (rbf): 40 %, ..., 7 s left`` from a run's progress file; "" without one."""
    from slimsight.compress.files.untrusted import escape_controls, parse_json, read_text

    try:
        found = parse_json(read_text(path, _MAX_PROGRESS_BYTES))
    except (OSError, ValueError):  # it is replaced and removed while this reads
        return ""
    if not isinstance(found, dict):
        return ""
    steps = [str(found[key]) for key in ("note", "step") if found.get(key)]
    return escape_controls(f": {'; '.join(dict.fromkeys(steps))}") if steps else ""


def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]) -> None:
    """Which stages of a run are done, and whether a process is working on it."""
    from ..run.stage_table import stage_needs
    from ..run_dir import read_run
    from ..run_dir.exports import check_exports
    from ..settings.recipe import load_recipe

    opened = read_run(run_dir, verify=False)
    writer = opened.writer()
    table = Table("stage", "state", "time", box=None, pad_edge=False)
    for stage in stage_needs(load_recipe(opened.recipe)):
        record, damage = opened.record(stage), opened.damage(stage) if writer is None else None
        state = "damaged" if damage else "done" if record else "-"
        table.add_row(stage, state, as_duration(record.seconds) if record and not damage else "")
    out = console()
    out.print(table)
    if writer is not None:
        out.print(f"process {writer} is working on it{_current_step(opened.progress)}", soft_wrap=True, markup=False)
        return
    opened.check()
    check_exports(opened.export_json.parent)
    if opened.report_json.is_file():
        page = opened.report_html
        if not page.is_file():  # earlier versions wrote none
            page = opened.report_md
        out.print(f"report: {run_dir / page.name}", soft_wrap=True)
    else:
        out.print("not finished, and no process is working on it; the same 'slimsight run' again goes on")
