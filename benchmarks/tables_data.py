"""The tables of images: ImageNet's layout, its recipes on a miniature, and what ``init`` decides of preprocessing."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]


def throughput(found: Results) -> str:
    """A line for the index, one for memory, one for each number of workers."""
    index, memory = found["index"], found["memory"]
    lines = [
        "| what | measured |",
        "|---|---|",
        f"| index of {index['files']:,} files in {index['classes']:,} classes: first start, later ones | "
        f"{index['first_seconds']:.1f} s, {index['second_seconds']:.2f} s |",
        f"| peak memory, {memory['workers']} workers and the process that uses their batches | "
        f"{memory['peak_bytes'] / 1e9:.2f} GB, {memory['before_bytes'] / 1e9:.2f} GB of it before the first image |",
    ]
    for row in found["rates"]:
        several = "s" if row["workers"] > 1 else ""
        lines.append(
            f"| images per second, {row['workers']} worker{several} on {found['cores']} cores: decoding, batches | "
            f"{row['decode_alone_per_second']:,.0f}, {row['batches_per_second']:,.0f}: {row['ratio']:.2f} "
            f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) |"
        )
    return "\n".join(lines)


def miniatures(found: Results) -> str:
    """A line for each recipe of configs/imagenet, run on a miniature of the layout."""
    head = "| network | budget of MACs | kept | gated and slim differ by | files and PyTorch by | parity | seconds |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        files = max(value for name, value in row["parity_max_abs"].items() if name.startswith("slim"))
        lines.append(
            f"| {row['network']} | {100 * row['budget']:.1f} % | {100 * row['kept_macs']:.2f} % | "
            f"{row['gated_vs_slim_max_rel']:.0e} | {files:.0e} | {'passed' if row['parity_passed'] else 'failed'} | "
            f"{sum(row['seconds'].values()):.0f} |"
        )
    return "\n".join(lines)


def preprocessing(found: Results) -> str:
    """A line for each of the twelve ways in which weights were trained."""
    lines = [
        "| trained with | prepared for | normalisation chosen | preprocessing chosen | test accuracy: chosen, truth | "
        "CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(found["cases"], key=lambda row: (row["preprocessing"], row["normalisation"])):
        chosen, made = row["chosen"], row["chosen_preprocessing"]
        same = "the same" if row["same_normalisation"] else f"mean {chosen['mean'][0]:.3f}, std {chosen['std'][0]:.3f}"
        right = "the same" if row["same_preprocessing"] else made["brief"]
        accuracies = row["test_accuracy_of_the_choice"], row["test_accuracy_of_the_truth"]
        lines.append(
            f"| {row['normalisation']} | {row['preprocessing']} | {same} ({chosen['kind']}) | {right} "
            f"({made['kind']}) | {', '.join(f'{100 * share:.1f} %' for share in accuracies)} | "
            f"{row['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)
