"""The README's table: one line per claim, generated from the results of its study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

from tables_clothing import headline
from tables_study import difference, spread

Results = dict[str, Any]

NETWORKS = {"resnet18@224": "ResNet-18 at 224", "resnet50@224": "ResNet-50 at 224", "resnet56@32": "ResNet-56 at 32"}


def headlines(
    zoo: Results,
    photographs: Results,
    efficiency: Results,
    study: Results,
    finetuning: Results,
    lab: Results,
    kills: Results,
    disk: Results,
) -> str:
    """Exactness, photographs, speed-up, accuracy, drift of explanations, timing intervals, interrupted runs."""
    lines = [_exactness(zoo), headline(photographs), *_speed(efficiency), _accuracy(study), _steering(study)]
    lines += [_explanations(finetuning)]
    lines += [_timing(lab), _survival(kills, disk)]
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in lines)])


def _exactness(found: Results) -> tuple[str, str]:
    plans = [row["plan"] for row in found["rows"] if row.get("plan")]
    counted = [plan for plan in plans if plan["cost_model_macs"] == plan["fvcore_macs"]]
    exact = [plan for plan in counted if plan["max_rel_float32"] < 1e-5]
    worst = max(plan["max_rel_float32"] for plan in plans)
    others = len(found["rows"]) - len(exact)
    rejected = f"; {others} rejected with the reason" if others else ""
    return (
        "torchvision's CNNs, half of the MACs removed: slim model and original with closed gates give the same logits",
        f"{len(exact)} of {len(found['rows'])} (largest relative difference {worst:.0e}, float32){rejected}",
    )


def _speed(found: Results) -> Iterable[tuple[str, str]]:
    rows = {(row["network"], row["method"]): row for row in found["rows"]}
    for network, label in NETWORKS.items():
        ours, theirs = rows[network, "slimsight"], rows[network, "torch-pruning"]
        rounded = rows[network, "torch-pruning, round_to 16"]
        interval = f"{ours['speedup_low']:.2f} to {ours['speedup_high']:.2f}"
        yield (
            f"speed-up of {label} px, half of the MACs (random weights; fastest shape of a grid of latency budgets, "
            f"`rank_weight` {ours['rank_weight']:g}; ONNX Runtime, one thread)",
            f"{ours['speedup']:.2f} (95 % interval {interval}); Torch-Pruning {theirs['speedup']:.2f} by default, "
            f"{rounded['speedup']:.2f} with `round_to` 16 ({rounded['kept']:.3f} of the MACs kept)",
        )


def _accuracy(found: Results) -> tuple[str, str]:
    rows = [row for row in found["rows"] if row["variant"] == "rbf"]
    before = rows[0]["baseline_test_accuracy"]
    after = spread(rows, lambda row: 100 * row["test_accuracy"], "{:.2f}")
    return (
        "ResNet-20, CIFAR-10, half of the MACs removed, steered gates, ten epochs of finetuning: test accuracy",
        f"{100 * before:.2f} → {after} % ({len(rows)} seeds)",
    )


def _steering(found: Results) -> tuple[str, str]:
    figures: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("test accuracy, points", lambda row: 100 * row["test_accuracy"]),
        ("drift of the explanations' centre, px", itemgetter("center_drift_px")),
    ]
    texts = []
    for name, figure in figures:
        text, detected = difference(found["rows"], ("rbf", "none"), figure, "{:+.2f}")
        texts.append(f"{name}: {text}" + ("" if detected else ", no difference detected"))
    return "steered minus unsteered gates in that study, paired by seed (95 % t-interval)", "; ".join(texts)


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
        f"overlap of its explanations with the original's after {', '.join(map(str, epochs))} epochs of finetuning: "
        "with cross entropy, with `finetune.steer_weight`, with that and `finetune.distill`",
        f"RBF, which steers: {overlaps('rbf')}; Grad-CAM, which does not: {overlaps('grad_cam')}; test accuracy "
        f"{accuracies} % ({len(rows)} seeds; [distillation alone](docs/results.md))",
    )


def _survival(kills: Results, disk: Results) -> tuple[str, str]:
    runs, same = (sum(row[key] for row in kills["summary"].values()) for key in ("runs", "same"))
    return (
        "resumed runs with the plan, bitwise identical weights and report of an uninterrupted run",
        f"{same} of {runs} after SIGKILL, {disk['resumed']} of {disk['trials']} after a full disk",
    )


def _timing(found: Results) -> tuple[str, str]:
    rows = [row for row in found["rows"] if row["study"] == "same"]
    contain_one = sum(row["low"] <= 1 <= row["high"] for row in rows)
    return "a model timed against itself: the 95 % interval contains 1", f"{contain_one} of {len(rows)} times"
