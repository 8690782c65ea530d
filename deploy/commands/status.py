"""``slimsight status``: how far a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..terminal import console


def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]) -> None:
    """Which stages of a run are done, and whether a process is at it."""
    from ..exported import check_exports
    from ..pipeline import to_stages
    from ..recipe import load_recipe
    from ..report.html import PAGE_FILE
    from ..report.units import as_duration
    from ..run_dir import read_run

    opened = read_run(run_dir, whole=False)
    writer = opened.writer()
    table = Table("stage", "state", "time", box=None, pad_edge=False)
    for stage in to_stages(load_recipe(opened.recipe)):
        record, damage = opened.record(stage.name), opened.damage(stage.name) if writer is None else None
        state = "damaged" if damage else "done" if record else "-"
        table.add_row(stage.name, state, as_duration(record.seconds) if record and not damage else "")
    out = console()
    out.print(table)
    if writer is not None:
        out.print(f"process {writer} is working on it")
        return
    opened.check()
    check_exports(opened.export_json.parent)
    if opened.report_json.is_file():
        page = run_dir / PAGE_FILE
        found = page if page.is_file() else run_dir / opened.report_md.name  # earlier versions wrote no page
        out.print(f"report: {found}", soft_wrap=True)
    else:
        out.print("not finished, and no process is working on it; the same 'slimsight run' again goes on")
