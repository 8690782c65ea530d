"""``slimsight doctor``: what works on this machine."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimsight.compress.errors import BudgetExceeded
from slimsight.compress.files.destination import check_file_destination

from .terminal import Terminal, console

if TYPE_CHECKING:
    from ..doctor import Diagnosis, Finding

_COLUMNS = 80
_MARKS = {"ok": "ok", "note": "note", "absent": "-", "broken": "BROKEN"}


def doctor(
    context: typer.Context,
    json: Annotated[Path | None, typer.Option(help="write the findings to this file")] = None,
) -> None:
    """What works on this machine, what does not, and how to get it; exit 1 if a run cannot work here.

    Heavy libraries are imported in processes of their own: one that crashes or hangs is a finding.
    """
    from slimsight.compress.files.atomic import write_json

    from ..doctor import AREAS, diagnose

    terminal: Terminal = context.obj
    if json is not None:
        check_file_destination(json, "--json")
    terminal.progress.note("importing what runs need, in processes of their own: some seconds")
    diagnosis = diagnose()
    out = console()
    for area, title in AREAS.items():
        out.print(title)
        for item in diagnosis.findings:
            if item.area == area:
                out.print("\n".join(_finding_lines(item, min(out.width, _COLUMNS))), soft_wrap=True)
    if json is not None:
        write_json(json, diagnosis.to_dict())
    if diagnosis.broken:
        names = ", ".join(item.name for item in diagnosis.broken)
        raise BudgetExceeded(f"a run cannot work here: {names}; see the lines marked BROKEN")
    out.print(f"\n{_verdict_text(diagnosis)}", soft_wrap=True)


def _finding_lines(item: Finding, width: int) -> list[str]:
    indent = " " * 32
    head = f"  {_MARKS[item.state]:<7} {item.name:<21} "
    lines = textwrap.wrap(item.found, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    if item.remedy:
        lines.append(f"          -> {item.remedy}")  # in one piece: it is there to be copied
    return lines


def _verdict_text(diagnosis: Diagnosis) -> str:
    gpu = any(item.name == "GPU" and item.state == "ok" for item in diagnosis.findings)
    return f"a run works here, on the {'GPU' if gpu else 'CPU'}: try 'slimsight init' with your model and images"
