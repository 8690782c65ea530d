"""A check as Markdown, for a job's summary."""

from __future__ import annotations

from typing import Final

from slimsight.compress.untrusted import visible

from ...report.tables import code, to_table
from ...report.units import check_texts, excess_text
from ..result import CheckResult
from .changes import HEADER, change_rows, no_changes

_SHOWN: Final = {"failed": "**FAILED**", "warned": "warned", "ok": "ok"}
_SPECIAL: Final = str.maketrans({character: f"\\{character}" for character in "*_`<>[]"})


def to_markdown(result: CheckResult) -> str:
    """A section that ends with an empty line: a job's summary is appended to."""
    judgement = result.judgement
    verdict = "passed" if judgement.passed else "FAILED"
    parts = [
        f"### slimsight check: {verdict}",
        f"{code(result.target)} against {code(str(result.budget))}: {judgement.summary()}.",
    ]
    rows = []
    for item in judgement.by_urgency:
        limit, value = check_texts(item.check)
        reason = item.check.reason if item.status != "ok" else None
        notes = "; ".join(filter(None, (reason, item.note)))
        rows.append(
            [_SHOWN[item.status], _plain(item.check.name), value, limit, excess_text(item.check), _plain(notes)]
        )
    parts.append(to_table(["", "check", "measured", "allowed", "by", "why"], rows, "llrrrl"))
    if result.against is not None:
        parts.append(f"#### {_plain(result.headline or '')}")
        if (nothing := no_changes(result)) is not None:
            parts.append(f"{nothing}.")
        else:
            changed, more = change_rows(result)
            parts.append(to_table(list(HEADER), [[_plain(cell) for cell in row] for row in changed], "lrrrl"))
            if more:
                parts.append(f"{more}.")
    return "\n\n".join(parts) + "\n\n"


def _plain(text: str) -> str:
    """``text`` that Markdown shows as it is."""
    return visible(" ".join(text.split())).translate(_SPECIAL)
