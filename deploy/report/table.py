"""Tables of a report: cells as data, printed as Markdown here and as HTML by templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimsight.compress.files.untrusted import escape_controls


class Code(str):
    """A name from a program: printed in monospace."""


@dataclass(frozen=True)
class Number:
    """A figure, and the function that prints it."""

    value: float
    to_text: Callable[[float], str]

    def __str__(self) -> str:
        return self.to_text(self.value)


@dataclass(frozen=True)
class Result:
    """Whether a check passed, and why not."""

    passed: bool
    reason: str | None = None


Cell = str | Number | Result


@dataclass(frozen=True)
class Table:
    """Column heads, rows of cells, and one of ``lr`` per column: texts are aligned left, numbers right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str


def to_markdown(table: Table) -> str:
    """The table as Markdown; failures are in bold."""
    return markdown_table(table.head, [[_markdown_cell(cell) for cell in row] for row in table.rows], table.align)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Code):
        return code(cell)
    if isinstance(cell, Result):
        result = "passed" if cell.passed else "**FAILED**"
        return f"{result}: {plain(cell.reason)}" if cell.reason else result
    return plain(str(cell))


def plain(text: str) -> str:
    """Untrusted ``text`` escaped for Markdown: no link, no picture, no HTML, on one line."""
    return re.sub(r"([<\[`])", r"\\\1", " ".join(escape_controls(text).split()))


def code(text: str) -> str:
    """Untrusted ``text`` as inline code."""
    return f"`{' '.join(escape_controls(text).split()).replace('`', chr(39))}`"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A Markdown table of Markdown cells whose columns line up as plain text too."""
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (list(head), *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(w) if a == "r" else cell.ljust(w) for cell, w, a in zip(row, widths, align, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if a == "r" else "-") for w, a in zip(widths, align, strict=True)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])
