"""Table of ISP's ablations: the terms of the gates' objective (Fig. 4), and their weights (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from tables_study import spread

Row = dict[str, Any]

LABELS = {
    "interpretation_rbf": "interpretation (RBF), no CE",
    "interpretation_realx": "interpretation (REAL-X), no CE",
    "ce_only": "CE only (g1 = 0)",
    "full": "full: CE and interpretation (RBF)",
}
SYMBOLS = {"steer_weight": "g1", "cost_weight": "g2"}
STATES = ("after_surgery", "finetuned")
OVERLAPS = {"rbf": "rbf", "realx": "REAL-X", "gradient": "gradient"}


def ablations(found: dict[str, Any]) -> str:
    """A line per objective, then one per changed weight; figures right after surgery -> finetuned."""
    rows = found["rows"]
    learned = [row for row in rows if "error" not in row]
    judges = [judge for judge in OVERLAPS if any(row["drift"][judge] for row in learned)]
    lines = [
        "| objective of the gates | seeds | validation | recalibrated only | centre drift by rbf, px | "
        + " | ".join(f"overlap by {OVERLAPS[judge]}" for judge in judges)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(judges),
    ]
    for recipe, label in LABELS.items():
        lines += _line(label, [row for row in rows if row["recipe"] == recipe and not row["swept"]], judges)
    for weight, symbol in SYMBOLS.items():
        for row in sorted((row for row in rows if row["swept"] == weight), key=lambda row: float(row[weight])):
            lines += _line(f"full, {symbol} = {row[weight]:g}", [row], judges)
    full = next(row for row in learned if row["recipe"] == "full" and not row["swept"])
    residuals = [row["gates"]["residual"] for row in learned]
    kept = [row["macs_kept"] for row in learned]
    epochs = max(row["finetune_epochs"] for row in learned)
    lines += [
        "",
        f"Right after surgery → after {epochs} epoch of finetuning; mean ± standard deviation over seeds. Unless "
        f"stated, g1 = {full['steer_weight']:g}, g2 = {full['cost_weight']:g}; {full['steps']} steps of the "
        f"gates; R_res at the end at most {max(residuals):.4f}, MACs kept {min(kept):.3f} to {max(kept):.3f}. Drift on "
        f"{full['images']} validation images; overlap by gradient: of the regions with half of a map's "
        f"mass.{_explainers(learned)}",
    ]
    return "\n".join(lines)


def _line(label: str, rows: Sequence[Row], judges: Sequence[str]) -> list[str]:
    learned = [row for row in rows if "error" not in row]
    lines = []
    if learned:
        recalibrated = spread(learned, lambda row: row["val_accuracy"]["recalibrated"], "{:.3f}")
        cells = [label, str(len(learned)), _both(learned, ("val_accuracy",), (), "{:.3f}"), recalibrated]
        cells.append(_both(learned, ("drift", "rbf"), ("center_px",), "{:.2f}"))
        cells += [_both(learned, ("drift", judge), ("iou",), "{:.3f}") for judge in judges]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {label} | seed {row['seed']} | {row['error']} |" for row in rows if "error" in row]
    return lines


def _both(rows: Sequence[Row], before: Sequence[str], after: Sequence[str], form: str) -> str:
    """The figure at ``before``, state, ``after``, in both states; of how many seeds, where it is not of all."""
    parts = []
    for state in STATES:
        values = [value for row in rows if (value := _at(row, (*before, state, *after))) is not None]
        if values:
            of = "" if len(values) == len(rows) else f" ({len(values)} of {len(rows)})"
            parts.append(spread([{"value": value} for value in values], itemgetter("value"), form) + of)
    return " → ".join(parts)


def _at(row: Row, path: Sequence[str]) -> float | None:
    found: Any = row
    for key in path:
        found = found.get(key)
        if found is None:
            return None
    return float(found)


def _explainers(rows: Sequence[Row]) -> str:
    """Whose explainer steered, where it is not every seed's own."""
    if not any(row["explainer"] for row in rows):
        return ""
    return " One REAL-X explainer serves all seeds (10,000 images, that of results/realx_vs_rbf.json)."
