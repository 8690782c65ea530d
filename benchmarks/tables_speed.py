"""Tables of what is timed."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Results = dict[str, Any]


def gate_step(found: Results) -> str:
    """A gate step against the plain network: a line per form, a column per network and batch."""
    rows = found["rows"]
    cases = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    titles = [f"{network.replace('@', ' at ')}, batch {batch}" for network, batch in cases]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(cases)]
    for form in dict.fromkeys(row["form"] for row in rows):
        cells = []
        for case in cases:
            row = next((x for x in rows if (x["network"], x["batch"], x["form"]) == (*case, form)), None)
            cells.append(_ratio(row) if row is not None else "")
        lines.append(f"| {form} | " + " | ".join(cells) + " |")
    waits = [f"{row['start_seconds']:.0f}" for row in rows if row["start_seconds"] is not None]
    lines += [
        "",
        "Time over the plain network's, ratio of medians (95 % bootstrap interval) of "
        f"{min(x['rounds'] for x in rows)} rounds or more, float32, {found['device']}, {found['processor']}. "
        f"Proof (and compilation) before the first step, in the columns' order: {', '.join(waits)} s.",
    ]
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    if row["form"] == "plain network":
        return f"{row['ms']:.0f} ms"
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
