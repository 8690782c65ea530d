"""Tables of the study of steered gates."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from scipy.stats import t

Row = dict[str, Any]
Results = dict[str, Any]

VARIANTS = {
    "rbf": "learned, steered by RBF explanations",
    "none": "learned, not steered",
    "magnitude": "magnitude, normalised per group",
    "uniform": "uniform, by magnitude",
}

SEEDS_FOR_A_CLAIM = 3


COMPARED = (("rbf", "none"), ("rbf", "magnitude"), ("rbf", "uniform"), ("none", "magnitude"), ("none", "uniform"))
SHORT = {"rbf": "steered", "none": "not steered", "magnitude": "magnitude", "uniform": "uniform"}


def difference(
    rows: Sequence[Row], pair: tuple[str, str], figure: Callable[[Row], float], form: str
) -> tuple[str, bool]:
    """First variant's figure minus the second's, paired by seed: mean, 95 % t-interval; whether that excludes 0."""
    first, second = ({row["seed"]: figure(row) for row in rows if row["variant"] == variant} for variant in pair)
    values = [first[seed] - second[seed] for seed in first if seed in second]
    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{form} ({form} to {form})".format(mean, mean - half, mean + half), abs(mean) > half


def spread(rows: Sequence[Row], figure: Callable[[Row], float], form: str) -> str:
    """Mean and, from two seeds on, standard deviation over seeds."""
    values = [figure(row) for row in rows]
    mean = form.format(statistics.mean(values))
    return mean if len(values) < 2 else f"{mean} ± {form.format(statistics.stdev(values)).lstrip('+')}"


def keep50(found: Results) -> str:
    """ResNet-20 at half of its MACs: a line per variant."""
    lines = [
        "| ranking | seeds | MACs kept | val. before finetuning | validation | test | test, points "
        "| centre drift, px | IoU | speed-up |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, label in VARIANTS.items():
        rows = [row for row in found["rows"] if row["variant"] == variant]
        if not rows:
            continue
        cells = [
            label,
            str(len(rows)),
            spread(rows, lambda row: row["macs"] / row["baseline_macs"], "{:.4f}"),
            spread(rows, lambda row: row["gated_val_accuracy"], "{:.3f}"),
            spread(rows, lambda row: row["val_accuracy"], "{:.4f}"),
            spread(rows, lambda row: row["test_accuracy"], "{:.4f}"),
            spread(rows, lambda row: 100 * (row["test_accuracy"] - row["baseline_test_accuracy"]), "{:+.2f}"),
            spread(rows, lambda row: row["center_drift_px"], "{:.3f}"),
            spread(rows, lambda row: row["iou"], "{:.3f}"),
            spread(rows, lambda row: row["speedup"], "{:.2f}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    row = found["rows"][0]
    lines += [
        "",
        f"Original: validation {row['baseline_val_accuracy']:.4f}, test {row['baseline_test_accuracy']:.4f}, "
        f"{row['baseline_macs'] / 1e6:.2f} M MACs. Mean ± standard deviation over seeds. Speed-up: ONNX Runtime, "
        f"one thread, batch 1, median of interleaved rounds on {found['device']}.",
    ]
    fewest = min(sum(row["variant"] == variant for row in found["rows"]) for variant in VARIANTS)
    if fewest < SEEDS_FOR_A_CLAIM:
        lines += [
            "",
            f"**Not finished:** a claim needs {SEEDS_FOR_A_CLAIM} seeds of every ranking; differences between single "
            "seeds are only an indication.",
        ]
    else:
        lines += ["", *_differences(found["rows"])]
    return "\n".join(lines)


def _differences(rows: Sequence[Row]) -> list[str]:
    figures: list[tuple[Callable[[Row], float], str]] = [
        (lambda row: 100 * row["test_accuracy"], "{:+.2f}"),
        (itemgetter("center_drift_px"), "{:+.2f}"),
        (itemgetter("iou"), "{:+.3f}"),
    ]
    lines = ["| difference, paired by seed | test, points | centre drift, px | IoU |", "|---|---|---|---|"]
    for pair in COMPARED:
        cells = [difference(rows, pair, figure, form) for figure, form in figures]
        texts = [f"**{text}**" if detected else text for text, detected in cells]
        lines.append(f"| {' minus '.join(SHORT[variant] for variant in pair)} | {' | '.join(texts)} |")
    return [
        *lines,
        "",
        "In brackets 95 % t-intervals; in bold those that exclude 0. Elsewhere no difference was detected.",
    ]


def selector(found: Results) -> str:
    """KL of the steering selectors and of control masks: a line per seed."""
    lines = [
        "| seed | mean area | sigma, px (median) | KL | predicted label | centred, same area | centred, same sigma "
        "| random centre, same sigma |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        if row["variant"] != "rbf":
            continue
        quality = row["selector"]
        names = ("kl", "kl_predicted_label", "kl_centred_same_area", "kl_centred", "kl_random")
        cells = [str(row["seed"]), f"{quality['mean_area']:.3f}", f"{quality['sigma_px']['median']:.2f}"]
        lines.append("| " + " | ".join(cells + [f"{quality[name]:.3f}" for name in names]) + " |")
    return "\n".join(lines)


def steering(found: Results) -> str:
    """Drift after surgery: a line per ranking, and the original after the same finetuning."""
    rows = found["rows"]
    lines = [
        "| right after surgery | centre drift, px | IoU | validation | channels shared with the steered plan |",
        "|---|---|---|---|---|",
    ]
    for variant, label in VARIANTS.items():
        shared = [row["shared_channels"] for row in rows if variant != "rbf"]
        share = spread(shared, itemgetter(f"rbf/{variant}"), "{:.2f}") if shared else ""
        lines.append(f"{_moved(label, [row['after_surgery'][variant] for row in rows])}{share} |")
    controls = [row["control"] for row in rows if "control" in row]
    if controls:
        lines.append(_moved("**the original, nothing removed, after the same finetuning**", controls) + " |")
    lines += [
        "",
        f"{len(rows)} seeds, mean ± standard deviation; shared: Jaccard index. When steered learning ended, the "
        f"interpretation term's gradient on the gates was {spread(rows, _pull, '{:.2f}')} of that of cross entropy.",
    ]
    return "\n".join(lines)


def _moved(label: str, figures: Sequence[Row]) -> str:
    cells = [
        spread(figures, lambda row: row["center_drift_px"], "{:.2f}"),
        spread(figures, lambda row: row["iou"], "{:.3f}"),
        spread(figures, lambda row: row["val_accuracy"], "{:.3f}"),
    ]
    return f"| {label} | " + " | ".join(cells) + " | "


def _pull(row: Row) -> float:
    return float(row["gate_gradients"]["steer"] / row["gate_gradients"]["ce"])
