"""Tables of drift: by explainers that did not steer, and of what steering does while weights are finetuned."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tables_study import SHORT, VARIANTS, spread

Row = dict[str, Any]

STATES = {"after_surgery": "after surgery", "finetuned": "finetuned"}
EXPLAINERS = ("rbf", "gradient", "grad_cam", "integrated_gradients")


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
                changes = [_change(rows, state, "region_iou", "{:.3f}"), _change(rows, state, "center_px", "{:.2f}")]
                lines.append(f"| {when} | {explainer} | {' | '.join(overlaps + changes)} |")
    images = sorted({row["images"] for row in found["rows"]})
    lines += [
        "",
        "A region has half of a map's mass. Mean ± standard deviation over seeds (one listed difference per seed) "
        f"of means over {' or '.join(map(str, images))} validation images, for their true classes. "
        "Differences are paired by image: mean over seeds, then each seed, with * if more than two standard errors "
        "from zero.",
    ]
    return "\n".join(lines)


def _overlap(rows: Sequence[Row], state: str, variant: str) -> str:
    return spread(rows, lambda row: row["drift"][state][variant]["region_iou"]["mean"], "{:.3f}")


def _change(rows: Sequence[Row], state: str, figure: str, form: str) -> str:
    found = [row["steered_minus_unsteered"][state][figure] for row in rows]
    mean = statistics.mean(one["mean"] for one in found)
    return f"**{form.replace('{:', '{:+').format(mean)}** ({', '.join(_each(found, form))})"


LOSSES = {
    "plain": "cross entropy",
    "steered": "+ the interpretation term",
    "distilled": "+ the original's logits (distillation)",
    "both": "+ the interpretation term and the original's logits",
}


def steered_finetuning(found: dict[str, Any]) -> str:
    """A line per loss: accuracy, and drift by every explainer, with what the loss changed, paired by image."""
    plans = dict.fromkeys(row["variant"] for row in found["rows"])
    explainers = list(found["rows"][0]["losses"]["plain"]["drift"])
    heads = [
        "validation",
        "test",
        "centre drift, px, by rbf",
        *(f"overlap of regions, by {name}" for name in explainers),
    ]
    lines = [f"| plan | finetuned by | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for plan in plans:
        rows = [row["losses"] for row in found["rows"] if row["variant"] == plan]
        for loss, label in LOSSES.items():
            if not all(loss in row for row in rows):
                continue
            cells = [
                spread(rows, lambda row, loss=loss: row[loss]["val_accuracy"], "{:.4f}"),
                spread(rows, lambda row, loss=loss: row[loss]["test_accuracy"], "{:.4f}"),
                _moved(rows, loss, "rbf", "center_px", "{:.2f}"),
                *(_moved(rows, loss, name, "region_iou", "{:.3f}") for name in explainers),
            ]
            lines.append(f"| {SHORT[plan]} | {label} | {' | '.join(cells)} |")
    epochs = ", ".join(str(number) for number in sorted({row["epochs"] for row in found["rows"]}))
    seeds = len({row["seed"] for row in found["rows"]})
    lines += [
        "",
        f"{epochs} epochs; mean ± standard deviation over {seeds} seeds. In brackets: difference to cross "
        "entropy only, per seed, paired by image, with * if more than two standard errors from zero.",
    ]
    lines += [line for plan in plans for line in _beside_distillation(found["rows"], plan)]
    return "\n".join(lines)


def _beside_distillation(rows: Sequence[Row], plan: str) -> list[str]:
    """What the interpretation term adds to distillation, where that was measured."""
    found = [row["losses"].get("both", {}).get("minus_distilled") for row in rows if row["variant"] == plan]
    if None in found:
        return []
    changes = [
        f"by {name} {', '.join(_each([each[name]['region_iou'] for each in found], '{:.3f}'))}" for name in found[0]
    ]
    return [f"Overlap of regions with both minus that with distillation only, per seed: {'; '.join(changes)}."]


def _moved(rows: Sequence[dict[str, Any]], loss: str, explainer: str, figure: str, form: str) -> str:
    mean = spread(rows, lambda row: row[loss]["drift"][explainer][figure]["mean"], form)
    if "minus_plain" not in rows[0][loss]:
        return mean
    return f"{mean} ({', '.join(_each([row[loss]['minus_plain'][explainer][figure] for row in rows], form))})"


def _each(found: Sequence[dict[str, float]], form: str) -> list[str]:
    """Differences with their sign, and * where they are more than two standard errors from zero."""
    signed = form.replace("{:", "{:+")
    return [signed.format(one["mean"]) + "*" * (abs(one["mean"]) > 2 * one["standard_error"]) for one in found]
