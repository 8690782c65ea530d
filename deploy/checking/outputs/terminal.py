"""A check on a terminal or in a log."""

from __future__ import annotations

import textwrap
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...budget import Judged
from ...report.units import check_texts, excess_text
from ..result import CheckResult
from .changes import HEADER, change_rows, no_changes

_SHOWN: Final = {"failed": ("FAILED", "bold red"), "warned": ("warned", "yellow"), "ok": ("ok", "green")}
_INDENT: Final = 8
_NARROWEST: Final = 16


def print_result(result: CheckResult, out: Console) -> None:
    """What failed first; then what changed, where there is something to compare with."""
    out.print(f"{result.target} against {result.budget}", soft_wrap=True)
    if result.image is not None:
        out.print(f"for one image of {'x'.join(map(str, result.image))}")
    out.print()
    _print_checks(result.judgement.by_urgency, out)
    if result.against is not None:
        out.print(f"\n{result.headline}", soft_wrap=True)
        _print_changes(result, out)


def _print_checks(found: tuple[Judged, ...], out: Console) -> None:
    cells = [(item.check.name, *reversed(check_texts(item.check)), excess_text(item.check)) for item in found]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(4)]
    room = out.width - _INDENT - sum(width + 2 for width in widths[1:] if width)
    name_width = min(widths[0], max(room, _NARROWEST))
    for item, (name, *figures) in zip(found, cells, strict=True):
        status, style = _SHOWN[item.status]
        first, *rest = textwrap.wrap(name, name_width)
        line = "  ".join(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True) if width)
        out.print(Text.assemble((status.ljust(_INDENT), style), first.ljust(name_width), "  ", line.rstrip()))
        for part in rest:
            out.print(" " * _INDENT + part)
        for why in filter(None, (item.check.reason if item.status != "ok" else None, item.note)):
            wrapped = textwrap.wrap(why, max(out.width - _INDENT, _NARROWEST), break_long_words=False)
            out.print(textwrap.indent("\n".join(wrapped), " " * _INDENT), soft_wrap=True)


def _print_changes(result: CheckResult, out: Console) -> None:
    if (nothing := no_changes(result)) is not None:
        out.print(nothing)
        return
    rows, more = change_rows(result)
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(HEADER):
        table.add_column(title, justify="left" if place in (0, 4) else "right", overflow="fold", no_wrap=0 < place < 4)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if more:
        out.print(more)
