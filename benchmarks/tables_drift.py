"""Table of drift by explainers that did not steer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tables_study import VARIANTS, spread

Row = dict[str, Any]

STATES = {"after_surgery": "after surgery", "finetuned": "finetuned"}
EXPLAINERS = ("rbf", "gradient", "grad_cam", "integrated_gradients")
SHORT = {"rbf": "steered", "none": "not steered", "magnitude": "magnitude", "uniform": "uniform"}


def drift(found: dict[str, Any]) -> str:
    """A line per state and explainer: overlap of every variant, and what steering changed, paired by image."""
    assert SHORT.keys() == VARIANTS.keys()
    lines = [
        f"| overlap of regions | by | {' | '.join(SHORT.values())} | steered - not | centre: steered - not, px |",
        "|---|---|" + "---|" * (len(SHORT) + 2),
    ]
    for state, when in STATES.items():
        for explainer in EXPLAINERS:
            rows = [row for row in found["rows"] if row["explainer"] == explainer]
            if rows:
                overlaps = [_overlap(rows, state, variant) for variant in SHORT]
                changes = [_change(rows, state, "region_iou", "{:+.3f}"), _change(rows, state, "center_px", "{:+.2f}")]
                lines.append(f"| {when} | {explainer} | {' | '.join(overlaps + changes)} |")
    images = sorted({row["images"] for row in found["rows"]})
    lines += [
        "",
        "Regions hold half of a map's mass; mean ± standard deviation over seeds, as many as differences are listed "
        f"for, of means over {' or '.join(map(str, images))} validation images, for their true classes. "
        "Differences are paired by image: mean over seeds, then every seed's, with * where it is more than two "
        "standard errors from zero.",
    ]
    return "\n".join(lines)


def _overlap(rows: Sequence[Row], state: str, variant: str) -> str:
    return spread(rows, lambda row: row["drift"][state][variant]["region_iou"]["mean"], "{:.3f}")


def _change(rows: Sequence[Row], state: str, figure: str, form: str) -> str:
    found = [row["steered_minus_unsteered"][state][figure] for row in rows]
    each = [form.format(one["mean"]) + "*" * (abs(one["mean"]) > 2 * one["standard_error"]) for one in found]
    return f"**{form.format(statistics.mean(one['mean'] for one in found))}** ({', '.join(each)})"
