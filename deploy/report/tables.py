"""Tables of the report as data, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slimsight.compress.untrusted import visible


class Code(str):
    """A name out of a program: shown in its type."""


@dataclass(frozen=True)
class Result:
    """Whether a check passed, and why not."""

    passed: bool
    reason: str | None = None


Cell = str | Result


@dataclass(frozen=True)
class Table:
    """Heads of columns, rows of cells, and one of ``lr`` per column: texts stand left, numbers right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str


def to_markdown(table: Table) -> str:
    """The table as Markdown; failures are in bold."""
    return to_table(table.head, [[_in_markdown(cell) for cell in row] for row in table.rows], table.align)


def _in_markdown(cell: Cell) -> str:
    if isinstance(cell, Code):
        return code(cell)
    if isinstance(cell, str):
        return plain(cell)
    result = "passed" if cell.passed else "**FAILED**"
    return f"{result}: {plain(cell.reason)}" if cell.reason else result


def plain(text: str) -> str:
    """``text`` of anyone's as Markdown shows it: no link, no picture, no HTML, on one line."""
    return re.sub(r"([<\[`])", r"\\\1", visible(" ".join(text.split())))


def code(text: str) -> str:
    """``text`` of anyone's in the type of programs."""
    return f"`{visible(' '.join(text.split())).replace('`', chr(39))}`"


def to_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A Markdown table whose columns line up as plain text too; ``align`` holds one of ``lr`` per column."""
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (list(header), *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(w) if a == "r" else cell.ljust(w) for cell, w, a in zip(row, widths, align, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if a == "r" else "-") for w, a in zip(widths, align, strict=True)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])
