"""The tables of docs/scaling.md: one process against two, and the estimate of ResNet-50 on many GPUs."""

from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]

GPUS = (1, 8, 64)
NODE = 8
"""GPUs that share a fast link."""

IMAGES_PER_SECOND = 2470
"""Assumption: plain training steps of ResNet-50 v1.5 on one A100 80GB, mixed precision, as NVIDIA measured it."""

BANDWIDTH = {"node": 300e9, "nodes": 25e9}
"""Assumption, bytes a second of a GPU one way, from data sheets: NVLink of an A100, and a 200 Gb/s network card."""

LATENCY = {"node": 20e-6, "nodes": 40e-6}
"""Assumption, seconds of the smallest reduction over 8 GPUs, and over nodes."""

OVERHEAD = 5e-3
"""Assumption: fixed seconds per step (Python, launches, the optimizer)."""

TRAIN = round(0.98 * 1_281_167)
SETTINGS: dict[str, tuple[int, int]] = {
    "predictor": (100 * (TRAIN // 10 // 128), 128),
    "selector": (5 * (TRAIN // 10 // 64), 64),
    "evaluation": (math.ceil(TRAIN / 10 / 256), 256),
    "gates": (100_000, 128),
    "classifier": (100 * (TRAIN // 256), 256),
}
"""Steps and images per step of the stages of configs/imagenet/resnet50.yaml; evaluation: once C_x of its images."""

NAMES = {"evaluation": "targets (C_x)", "classifier": "finetune"}


def step_seconds(row: Row, plain: float, batch: int, gpus: int) -> tuple[float, float]:
    """Seconds of a step on ``gpus`` GPUs: computing, waiting.

    Args:
        row: the stage's, of results/scaling.json; ``plain``: seconds per image of the plain training step there.
    """
    compute = batch / gpus / IMAGES_PER_SECOND * row["seconds_per_image"] / plain
    if gpus == 1:
        return compute, OVERHEAD
    link = "node" if gpus <= NODE else "nodes"
    sent = 2 * (gpus - 1) / gpus * row["bytes"] / BANDWIDTH[link]
    reductions = 2 * row["batch_norms"] + (2 if row["bytes"] else 0)  # two per norm; gradients, figures
    return compute, OVERHEAD + sent + reductions * LATENCY[link]


def scaling(found: Row) -> str:
    """A line per stage: bytes, steps, and hours for each number of GPUs with the share spent computing."""
    stages = found["stages"]
    plain = stages["classifier"]["seconds_per_image"]
    columns = [f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS]
    lines = [
        f"| stage | CPU s/image | of plain training | reduced per step | steps x batch | {' | '.join(columns)} |",
        "|---|---|---|---|---|" + "---|" * len(GPUS),
    ]
    totals = dict.fromkeys(GPUS, 0.0)
    for stage, (steps, batch) in SETTINGS.items():
        row, cells = stages[stage], []
        for gpus in GPUS:
            compute, waits = step_seconds(row, plain, batch, gpus)
            totals[gpus] += steps * (compute + waits)
            cells.append(f"{_hours(steps * (compute + waits))} ({compute / (compute + waits):.0%} computing)")
        of_plain = row["seconds_per_image"] / plain
        lines.append(
            f"| {NAMES.get(stage, stage)} | {row['seconds_per_image']:.2f} | {of_plain:.2f} | {_bytes(row['bytes'])} | "
            f"{steps:,} x {batch} | {' | '.join(cells)} |"
        )
    lines.append(f"| all | | | | | {' | '.join(_hours(totals[gpus]) for gpus in GPUS)} |")
    lines += [
        "",
        f"CPU seconds: {found['device']}, one thread, float32, batch {found['batch']}, random weights, steps of "
        f"slimsight's training loop. Speed-up of all stages together: {totals[1] / totals[8]:.1f} with 8 GPUs, "
        f"{totals[1] / totals[64]:.1f} with 64.",
    ]
    return "\n".join(lines)


def processes(found: Row) -> str:
    """A line per stage: two processes against one from the same inputs, and the bytes reduced per step."""
    lines = [
        "| stage | one process, repeated | two processes: largest difference | relative | two processes against one "
        "with two parts | reduced per step |",
        "|---|---|---|---|---|---|",
    ]
    for stage, row in found["stages"].items():
        once, twice, parts = row["1 against 1"], row["2 against 1"], row["2 against 1-in-parts"]
        if twice is None:
            continue
        in_parts = "bitwise identical" if parts["absolute"] == 0 else _error(parts["absolute"])
        sent = "; ".join(
            f"{each['bytes_reduced_per_step']:,} bytes for {each['learned_numbers']:,} numbers"
            for each in row["trainings"]
        )
        again = "bitwise identical" if once["absolute"] == 0 else f"{once['absolute']:.0e}"
        lines.append(
            f"| {stage} | {again} | {_error(twice['absolute'])} | {_error(twice['relative'])} | {in_parts} | {sent} |"
        )
    lines += [
        "",
        "| steps of the classifier's training | two processes against one, float32 | float64 | one process in float32 "
        "against float64 | two in float32 against float64 |",
        "|---|---|---|---|---|",
    ]
    wide, narrow = found["classifier_after_steps"]["float64"], found["classifier_after_steps"]["float32"]
    for step in narrow:
        of = [narrow, wide, found["float32_to_float64"]["1"], found["float32_to_float64"]["2"]]
        lines.append(f"| {step} | {' | '.join(_error(each[step]['absolute']) for each in of)} |")
    return "\n".join(lines)


def _error(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _bytes(count: int) -> str:
    return "nothing" if not count else f"{count:,} bytes"
