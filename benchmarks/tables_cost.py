"""The table of the cost of explanations."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

FORWARD, EXPLAINER = "forward", "rbf"
ALLOWED = 1.5
"""Forward passes that an explanation by ``EXPLAINER`` should cost at most."""


def cost(found: Row) -> str:
    """A line per explainer: MACs and time of one image, a column per network and batch; then the target."""
    rows = found["rows"]
    cases = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    networks = list(dict.fromkeys(network for network, _ in cases))
    titles = [f"{network}: MACs" for network in networks] + [f"{network}, batch {batch}" for network, batch in cases]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    by = {(row["network"], row["batch"], row["explainer"]): row for row in rows}
    first = [row["explainer"] for row in rows if (row["network"], row["batch"]) == cases[0]]
    for name in dict.fromkeys([FORWARD, *first, *(row["explainer"] for row in rows)]):
        counted = {row["network"]: row["macs"] for row in rows if row["explainer"] == name and row["macs"] is not None}
        cells = [f"{counted[network]:.2f}" if network in counted else "" for network in networks]
        cells += [_time(by[(*case, name)]) if (*case, name) in by else "" for case in cases]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "ms per image, and its ratio to a forward pass of the same classifier (95 % bootstrap interval); all rows of "
        "a column in turn in one run; MACs relative to a forward pass. At batch 1, "
        f"{max(row['in_a_row'] for row in rows)} consecutive calls if a call costs less than ten passes. PyTorch, "
        f"eager, float32, {found['device']}.",
        "",
        *(_verdict(by, case) for case in cases),
    ]
    return "\n".join(lines)


def _time(row: Row) -> str:
    if row["explainer"] == FORWARD:
        return f"{row['ms_per_image']:.2f} ms"
    low, high = row["forwards_low"], row["forwards_high"]
    return f"{row['ms_per_image']:.2f} ms, {row['forwards']:.2f} ({low:.2f} to {high:.2f})"


def _verdict(by: dict[tuple[str, int, str], Row], case: tuple[str, int]) -> str:
    row, folded = by[(*case, EXPLAINER)], by[(*case, "forward, folded")]
    text = f"- {case[0]}, batch {case[1]}: `{EXPLAINER}` takes {row['forwards']:.2f} forward passes, "
    text += f"target {ALLOWED}: {'met' if row['forwards_high'] <= ALLOWED else 'NOT met'}"
    if row["macs"] > ALLOWED:
        text += f" (its MACs are already {row['macs']:.2f})"
    return f"{text}; {row['forwards'] / folded['forwards']:.2f} relative to a pass with folded normalisations"
