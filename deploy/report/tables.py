"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

Rows = list[list[str]]


def to_table(header: Sequence[str], rows: Rows, align: str) -> str:
    """A Markdown table whose columns line up as plain text too; ``align`` holds one of ``lr`` per column."""
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (list(header), *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(w) if a == "r" else cell.ljust(w) for cell, w, a in zip(row, widths, align, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if a == "r" else "-") for w, a in zip(widths, align, strict=True)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def as_code(name: str) -> str:
    """A name between backticks."""
    return f"`{name}`"
