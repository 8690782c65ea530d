"""``slimsight report``: the page of a finished run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimsight.compress.errors import ConfigError

from ..terminal import console


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run directories; several are compared")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="default: report.html in the run, comparison.html here for several"),
    ] = None,
) -> None:
    """Write the report as one HTML file that opens from disk: of a run, or of several side by side."""
    from ..report.html import COMPARISON_FILE, write_comparison, write_run
    from ..report_record import check_report, renew_page

    _check(runs, out)
    for run in runs:
        check_report(run)
    if len(runs) > 1:
        path = write_comparison(runs, out or Path(COMPARISON_FILE))
    else:
        path = renew_page(runs[0]) if out is None else write_run(runs[0], out)
    console().print(f"report: {path}", soft_wrap=True)


def _check(runs: list[Path], out: Path | None) -> None:
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the file to write, e.g. {out / 'report.html'}")
    seen: set[Path] = set()
    for run in runs:
        place = run.resolve()
        if place in seen:
            raise ConfigError(f"{run} is given twice; give every run that is to be compared once")
        seen.add(place)
