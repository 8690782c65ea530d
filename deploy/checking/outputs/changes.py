"""The layers that changed, as cells."""

from __future__ import annotations

from typing import Final

from ...budget.changes import LayerChange
from ...report.units import as_macs
from ..result import CheckResult

HEADER: Final = ("layer", "MACs before", "after", "growth", "what changed")
_LISTED: Final = 20


def change_rows(result: CheckResult) -> tuple[list[list[str]], str]:
    """Rows under ``HEADER``, and a sentence on those left out (empty where there are none)."""
    rows = [_row(change) for change in result.changes[:_LISTED]]
    more = len(result.changes) - _LISTED
    return rows, f"and {more} more layers (all are in the JSON)" if more > 0 else ""


def no_changes(result: CheckResult) -> str | None:
    """Why there is nothing to list; None where there is."""
    if result.against is None or result.changes:
        return None
    if result.against.layers is None or result.figures.layers is None:
        return "layers cannot be compared: one of the two does not say them"
    return "no layer changed"


def _row(change: LayerChange) -> list[str]:
    before = "" if change.before is None else as_macs(change.before.macs)
    after = "" if change.after is None else as_macs(change.after.macs)
    sign = "+" if change.growth >= 0 else "-"
    return [change.name, before, after, f"{sign}{as_macs(abs(change.growth))}", change.why]
