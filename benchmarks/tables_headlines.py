"""The README's table: one line per claim, each out of the results that its study wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tables_study import spread

Results = dict[str, Any]

NETWORKS = {"resnet18@224": "ResNet-18 at 224", "resnet50@224": "ResNet-50 at 224", "resnet56@32": "ResNet-56 at 32"}


def headlines(
    zoo: Results, efficiency: Results, study: Results, finetuning: Results, lab: Results, kills: Results, disk: Results
) -> str:
    """Exactness, speed, accuracy, explanations, how far the timing itself can be believed, and what survives."""
    lines = [_exactness(zoo), *_speed(efficiency), _accuracy(study), _explanations(finetuning), _timing(lab)]
    lines.append(_survival(kills, disk))
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in lines)])


def _exactness(found: Results) -> tuple[str, str]:
    plans = [row["plan"] for row in found["rows"] if row.get("plan")]
    counted = [plan for plan in plans if plan["cost_model_macs"] == plan["fvcore_macs"]]
    exact = [plan for plan in counted if plan["max_rel_float32"] < 1e-5]
    worst = max(plan["max_rel_float32"] for plan in plans)
    return (
        "torchvision's CNNs with half of their MACs removed: the same function",
        f"{len(exact)} of {len(found['rows'])} (largest difference {worst:.0e}, relative, float32); the other is "
        "refused in a sentence",
    )


def _speed(found: Results) -> Iterable[tuple[str, str]]:
    rows = {(row["network"], row["method"]): row for row in found["rows"]}
    for network, label in NETWORKS.items():
        ours, theirs = rows[network, "slimsight"], rows[network, "torch-pruning"]
        interval = f"{ours['speedup_low']:.2f} to {ours['speedup_high']:.2f}"
        yield (
            f"speed-up of {label} at half of the MACs (ONNX Runtime, one thread)",
            f"{ours['speedup']:.2f} ({interval}); Torch-Pruning as it comes {theirs['speedup']:.2f}",
        )


def _accuracy(found: Results) -> tuple[str, str]:
    rows = [row for row in found["rows"] if row["variant"] == "rbf"]
    before = rows[0]["baseline_test_accuracy"]
    after = spread(rows, lambda row: 100 * row["test_accuracy"], "{:.2f}")
    return (
        "ResNet-20, CIFAR-10, half of its MACs, ten epochs of finetuning: test accuracy",
        f"{100 * before:.2f} → {after} % ({len(rows)} seeds)",
    )


def _explanations(found: Results) -> tuple[str, str]:
    measured = [row for row in found["rows"] if row["variant"] == "rbf"]
    rows, epochs = [row["losses"] for row in measured], sorted({row["epochs"] for row in measured})

    def overlaps(explainer: str) -> str:
        return ", ".join(
            spread(rows, lambda row, loss=loss: row[loss]["drift"][explainer]["region_iou"]["mean"], "{:.2f}")
            for loss in ("plain", "steered", "both")
        )

    accuracies = ", ".join(
        spread(rows, lambda row, loss=loss: 100 * row[loss]["test_accuracy"], "{:.2f}")
        for loss in ("plain", "steered", "both")
    )
    return (
        f"its explanations' overlap with the original's after {', '.join(map(str, epochs))} epochs of finetuning by "
        "cross entropy, with `finetune.steer_weight`, with that and `finetune.distill`",
        f"by RBF, which steers: {overlaps('rbf')}; by Grad-CAM, which does not: {overlaps('grad_cam')}; test accuracy "
        f"{accuracies} % ({len(rows)} seeds; [distillation alone beside it](docs/results.md))",
    )


def _survival(kills: Results, disk: Results) -> tuple[str, str]:
    runs, same = (sum(row[key] for row in kills["summary"].values()) for key in ("runs", "same"))
    return (
        "runs that were killed, or found the disk full, and were started again: plan, weights to the bit and report of "
        "an uninterrupted one",
        f"{same} of {runs}, {disk['resumed']} of {disk['trials']}",
    )


def _timing(found: Results) -> tuple[str, str]:
    rows = [row for row in found["rows"] if row["study"] == "same"]
    held = sum(row["low"] <= 1 <= row["high"] for row in rows)
    return "a model timed against itself: the 95 % interval holds 1", f"{held} of {len(rows)} times"
