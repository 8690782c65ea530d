"""``slimsight check``: a model's figures against the limits of a budget file."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimsight.compress.amounts import MOST_CLASSES, read_image_shape
from slimsight.compress.errors import BudgetExceeded
from slimsight.compress.files.destination import check_file_destination

from .terminal import Terminal, console

if TYPE_CHECKING:
    from ..check import CheckResult

_STDOUT = Path("-")


def check(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="a run, an ONNX or .pt2 file, or path/to/file.py:factory")
    ],
    budget: Annotated[Path, typer.Option(help="budget file (YAML), see docs/budgets.md")],
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="another target, or what --json wrote: show what changed since")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="what verify.py of a package wrote on a device; repeatable"),
    ] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="one image, where the target does not say it")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, max=MOST_CLASSES, help="for a factory that takes their number")] = 1000,
    json: Annotated[Path | None, typer.Option(help="write all of it to this file; -: print it instead")] = None,
    junit: Annotated[Path | None, typer.Option(help="write JUnit XML to this file")] = None,
    summary: Annotated[Path | None, typer.Option(help="append Markdown to this file ($GITHUB_STEP_SUMMARY)")] = None,
) -> None:
    """Compare a model with a budget file: exit 0 within it, 1 if a check fails, 2 if something cannot be read."""
    from ..check import CheckRequest, run_check

    terminal: Terminal = context.obj
    for option, file in (("--json", json), ("--junit", junit), ("--summary", summary)):
        if file is not None and file != _STDOUT:
            check_file_destination(file, option)
    image = None if input_ is None else read_image_shape(input_)
    with redirect_stdout(sys.stderr):  # what a user's model prints: standard output is the result alone
        result = run_check(
            CheckRequest(target, budget, against, image, classes, tuple(measured or ())), terminal.progress
        )
    _print(result, json)
    _write(result, json, junit, summary)
    if not result.verdict.passed:
        names = ", ".join(item.check.name for item in result.verdict.failed[:3])
        more = ", ..." if len(result.verdict.failed) > 3 else ""
        where = f"; report: {result.report}" if result.report else ""
        raise BudgetExceeded(f"{result.verdict.summary()}: {names}{more}{where}")
    if json != _STDOUT:
        console().print(f"\n{result.verdict.summary()}")


def _print(result: CheckResult, json: Path | None) -> None:
    from ..check.outputs import print_result, to_annotations

    if json != _STDOUT:
        print_result(result, console())
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in to_annotations(result):
            typer.echo(line, err=json == _STDOUT)  # GitHub reads both streams


def _write(result: CheckResult, json: Path | None, junit: Path | None, summary: Path | None) -> None:
    from slimsight.compress.files.atomic import write_errors, write_json, write_text

    from ..check.outputs import to_junit, to_markdown

    if json == _STDOUT:
        from json import dumps

        typer.echo(dumps(result.to_dict(), indent=2, allow_nan=False))
    elif json is not None:
        write_json(json, result.to_dict())
    if junit is not None:
        write_text(junit, to_junit(result))
    if summary is not None:
        with write_errors(summary):
            summary.parent.mkdir(parents=True, exist_ok=True)
            with summary.open("a", encoding="utf-8") as file:
                file.write(to_markdown(result))
