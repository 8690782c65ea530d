"""The table of kinds of models, files and loaders that strangers bring."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]
OUTCOMES = ("works", "refused", "traceback", "wrong figure")


def kinds(found: Results) -> str:
    """How many forms of each kind were tried, and how they ended; then which were refused."""
    lines = [
        "| kind | forms | works | refused with a sentence | traceback | wrong figure |",
        "|---|---|---|---|---|---|",
    ]
    rows = found["rows"]
    for kind in [*dict.fromkeys(row["kind"] for row in rows), None]:
        ours = [row["outcome"] for row in rows if kind in (None, row["kind"])]
        cells = [kind or "all", str(len(ours)), *(str(ours.count(outcome)) for outcome in OUTCOMES)]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        refused = [row["form"] for row in rows if row["kind"] == kind and row["outcome"] == "refused"]
        lines.append(f"- refused, {kind}: {', '.join(refused)}")
    return "\n".join([*lines, "", f"On {found['device']}."])
