"""Table of a report on what was measured on devices."""

from __future__ import annotations

from .schema import Report
from .table import Cell, Number, Result, Table
from .units import as_error, as_ms, as_percent_0


def devices(report: Report) -> Table:
    """What was measured on devices."""
    rows: list[list[Cell]] = [
        [
            row.device,
            row.runtime,
            row.precision,
            str(row.threads) if row.threads else "auto",
            f"{as_ms(row.median_ms)} [{as_ms(row.low_ms)}, {as_ms(row.high_ms)}]",
            as_error(row.difference),
            Number(row.agreement, as_percent_0),
            Result(row.passed, row.why),
        ]
        for row in report.devices or ()
    ]
    header = [
        "device",
        "runtime",
        "precision",
        "threads",
        "median [95 % interval]",
        "difference",
        "same top-1",
        "result",
    ]
    return Table(header, rows, "lllrrrrl")
