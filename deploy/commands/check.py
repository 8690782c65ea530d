"""``slimsight check``: a report against a budget file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import leave, print_checks


def check(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    budget: Annotated[Path, typer.Option(help="budget file (YAML)")],
) -> None:
    """Hold a run's report against a budget file; exit 1 if a check fails."""
    from ..budget import check_report, load_budget
    from ..report import read_report
    from ..run_dir import read_run

    limits = load_budget(budget)
    verdict = check_report(read_report(read_run(run_dir).report_json), limits)
    print_checks(verdict)
    leave(verdict, run_dir / "report.md")
