"""Tables of what is timed."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Results = dict[str, Any]


def gate_step(found: Results) -> str:
    """A gate step against the plain network: a line per form, a column per network and batch."""
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


def efficiency(found: Results) -> str:
    """Speed per MACs removed: a line per method, two columns per network."""
    rows = found["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = [
        "| | "
        + " | ".join(f"{name.replace('@', ' at ')}: speed-up | MACs kept | efficiency" for name in networks)
        + " |",
        "|---|" + "---|---|---|" * len(networks),
    ]
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "original"):
        cells = []
        for name in networks:
            row = next(x for x in rows if (x["network"], x["method"]) == (name, method))
            speed = f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
            cells += [speed, f"{row['kept']:.3f}", f"{row['efficiency']:.2f}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Efficiency: speed-up / (MACs before / MACs after). ONNX Runtime, one thread, batch 1, all models of a network "
        f"interleaved, ratio of medians (95 % bootstrap interval), {found['device']}.",
    ]
    return "\n".join(lines)


def combined(found: Results) -> str:
    """Two budgets at once: a line per network."""
    lines = [
        "| | budget | MACs kept | latency kept | original | slim | speed-up | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [
            row["network"].replace("@", " at "),
            f"MACs {100 * row['macs_budget']:.0f} %, latency {100 * row['latency_budget']:.0f} %",
            f"{row['macs_kept']:.4f}",
            f"{row['latency_kept']:.3f}",
            f"{row['original_ms']:.1f} ms",
            f"{row['slim_ms']:.1f} ms",
            f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})",
            "yes" if row["met"] else "NO",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
