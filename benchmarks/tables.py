"""Write the README's tables from results/*.json: figures in prose are never typed.

.venv/bin/python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.files import read_json, write_text

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
VARIANTS = {
    "rbf": "learned, steered by RBF explanations",
    "none": "learned, not steered",
    "magnitude": "magnitude, normalised per group",
    "uniform": "uniform, by magnitude",
}

SEEDS_FOR_A_CLAIM = 3

Row = dict[str, Any]


def spread(rows: Sequence[Row], figure: Callable[[Row], float], form: str) -> str:
    """Mean and, from two seeds on, standard deviation over seeds."""
    values = [figure(row) for row in rows]
    mean = form.format(statistics.mean(values))
    return mean if len(values) < 2 else f"{mean} ± {form.format(statistics.stdev(values)).lstrip('+')}"


def keep50() -> str:
    """ResNet-20 at half of its MACs: a line per variant."""
    found = read_json(HERE / "results" / "cifar10_resnet20_keep50.json")
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
            "seeds are an indication at most.",
        ]
    return "\n".join(lines)


def selector() -> str:
    """Whether the selectors that steered say something: a line per seed."""
    found = read_json(HERE / "results" / "cifar10_resnet20_keep50.json")
    lines = [
        "| seed | mean area | sigma, px (median) | KL | predicted label | centred, same area | centred, same sigma "
        "| anywhere, same sigma |",
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


def gate_step() -> str:
    """A gate step against the plain network: a line per form, a column per network and batch."""
    found = read_json(HERE / "results" / "gate_step.json")
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


def zoo() -> str:
    """What can be removed from torchvision's CNNs: a line per model."""
    lines = [
        "| model | MACs | groups | frozen | smallest reachable | plan for half: MACs kept | difference, float64 "
        "| float32 | cost model = fvcore | s: groups proven + plan proven |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    found = read_json(HERE / "results" / "zoo.json")
    for row in found["rows"]:
        name = row["model"].partition(":")[2]
        if "error" in row:
            lines.append(f"| {name} |" + " |" * 9)
            reasons.setdefault(f"refused: {row['error']}", []).append(name)
            continue
        plan = row["plan"]
        for group in row["frozen_groups"]:
            names = reasons.setdefault(f"frozen: {group['reason']}", [])
            names += [] if name in names else [name]
        cells = [
            name,
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['groups']}",
            f"{len(row['frozen_groups'])}",
            f"{100 * row['smallest_macs'] / row['macs']:.1f} %",
            f"{plan['macs_kept']:.4f}",
            f"{plan['max_rel']:.0e}",
            f"{plan['max_rel_float32']:.0e}",
            "yes" if plan["cost_model_macs"] == plan["fvcore_macs"] else "NO",
            f"{row['seconds']:.0f} + {plan['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for reason, names in reasons.items():
        who = "all of them" if len(names) == len(found["rows"]) - 1 else ", ".join(names)
        lines.append(f"- {reason} ({who})")
    threads = found["rows"][0]["threads"]
    lines += ["", f"Differences relative to the largest logit; {found['device']}, {threads} threads used."]
    return "\n".join(lines)


TABLES = {"zoo": zoo, "keep50": keep50, "selector": selector, "gate_step": gate_step}


def filled(text: str) -> str:
    """``text`` with every ``<!-- table: name -->`` ... ``<!-- end -->`` block written anew."""
    for name, table in TABLES.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        if not rest:
            continue
        text = before + start + table() + "\n" + end + rest.partition(end)[2]
    return text


def main() -> None:
    """Rewrite README.md, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if the README is not what the results say")
    given = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if given.check:
        sys.exit(new != text)
    write_text(README, new)


if __name__ == "__main__":
    main()
