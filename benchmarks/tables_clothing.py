"""The tables of the photographs: the default path against a Torch-Pruning script, and ways to finetune."""

from __future__ import annotations

from typing import Any

import numpy as np

Results = dict[str, Any]
_NAMES = {"default": "what `slimsight init` writes", "taylor_script": "Torch-Pruning script"}
_RESAMPLED = 4000


def clothing(found: Results) -> str:
    """A line for each variant and budget, with the difference in test accuracy where both have the same seeds."""
    rows = found["rows"]
    baseline = next(row for row in rows if row["variant"] == "baseline")
    given = f"{100 * baseline['val_accuracy']:.1f}, {100 * baseline['test_accuracy']:.1f}"
    lines = [
        "| | MACs | seeds | validation, test accuracy (%) | speed-up | CPU seconds | ahead of the script (test) |",
        "|---|---|---|---|---|---|---|",
        f"| given weights | 1 | | {given} | 1 | | |",
    ]
    for budget in sorted({row["budget"] for row in rows if "budget" in row}, reverse=True):
        for variant, name in _NAMES.items():
            script = {r["seed"]: r for r in rows if r["variant"] == "taylor_script" and r.get("budget") == budget}
            of_variant = [row for row in rows if row["variant"] == variant and row.get("budget") == budget]
            for trial in sorted({" ".join(row.get("set", [])) for row in of_variant}):
                own = {row["seed"]: row for row in of_variant if " ".join(row.get("set", [])) == trial}
                shared = sorted(own.keys() & script.keys()) if variant != "taylor_script" else []
                ahead = ahead_of([own[seed] for seed in shared], [script[seed] for seed in shared]) if shared else ""
                tried = f", tried with `{trial}`" if trial else ""
                lines.append(
                    f"| {name}{tried}, {budget:.0%} | {_mean(own, 'macs', 1 / baseline['macs'], 3)} | {len(own)} | "
                    f"{_mean(own, 'val_accuracy', 100, 1)}, {_mean(own, 'test_accuracy', 100, 1)} | {_speed(own)} | "
                    f"{_mean(own, 'cpu_seconds', 1, 0)} | {ahead} |"
                )
    return "\n".join(lines)


def headline(found: Results) -> tuple[str, str]:
    """Half of the MACs: what ``init`` writes beside the script, over the seeds that both have."""
    own, script = (
        {row["seed"]: row for row in found["rows"] if row["variant"] == variant and row.get("budget") == 0.5
         and not row.get("set")}
        for variant in ("default", "taylor_script")
    )  # fmt: skip
    shared = sorted(own.keys() & script.keys())
    own, script = ({seed: rows[seed] for seed in shared} for rows in (own, script))
    baseline = next(row for row in found["rows"] if row["variant"] == "baseline")
    ahead = ahead_of([own[seed] for seed in shared], [script[seed] for seed in shared])
    return (
        "EfficientNet-Lite0 on 3,068 photographs of clothing, half of the MACs, what `slimsight init` writes: speed-up "
        "and test accuracy, beside a Torch-Pruning script",
        f"{_speed(own)}, {_mean(own, 'test_accuracy', 100, 1)} %; script {_speed(script)}, "
        f"{_mean(script, 'test_accuracy', 100, 1)} %; the given weights {100 * baseline['test_accuracy']:.1f} %; "
        f"ahead of the script, points of test accuracy: {ahead}",
    )


def ahead_of(own: list[Results], others: list[Results]) -> str:
    """Points of test accuracy, with a 95 % interval: seeds and images are drawn anew together, images paired."""
    mine, theirs = (np.array([[c == "1" for c in row["test_right"]] for row in rows], float) for rows in (own, others))
    each = mine - theirs
    draw = np.random.default_rng(0)
    seeds, images = each.shape
    means = [
        each[np.ix_(draw.integers(0, seeds, seeds), draw.integers(0, images, images))].mean() for _ in range(_RESAMPLED)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    shared = f" ({seeds} seeds)" if seeds > 1 else " (1 seed)"
    return f"{100 * each.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){shared}"


def _mean(rows: dict[int, Results], key: str, scale: float, digits: int) -> str:
    values = np.array([scale * row[key] for row in rows.values()])
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():,.{digits}f}{spread}"


def _speed(rows: dict[int, Results]) -> str:
    found = [row["speedup"] for row in rows.values()]
    low, high = min(each["low"] for each in found), max(each["high"] for each in found)
    return f"{np.mean([each['median'] for each in found]):.2f} ({low:.2f} to {high:.2f})"


_WAYS = {
    "shifts": "shifts of up to an eighth of the side: what `init` writes",
    "windows": "windows (`data.crop_scale: [0.5, 1]`)",
    "shifts_mixed": "shifts, `finetune.mixup: 0.2`",
    "shifts_distilled": "shifts, `finetune.distill: 0.5`",
    "windows_mixed": "windows, mixup",
    "windows_distilled": "windows, distillation",
    "windows_mixed_distilled": "windows, mixup and distillation",
}


def finetuning(found: Results) -> str:
    """A line for each way to finetune the same slim model; means over seeds."""
    lines = [
        "| | seeds | accuracy (%): validation, test | cross entropy (nats): validation, test | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for variant, name in _WAYS.items():
        own = {row["seed"]: row for row in found["rows"] if row["variant"] == variant}
        if own:
            accuracies = f"{_mean(own, 'val_accuracy', 100, 1)}, {_mean(own, 'test_accuracy', 100, 1)}"
            losses = f"{_mean(own, 'val_loss', 1, 3)}, {_mean(own, 'test_loss', 1, 3)}"
            lines.append(f"| {name} | {len(own)} | {accuracies} | {losses} | {_mean(own, 'cpu_seconds', 1, 0)} |")
    return "\n".join(lines)
