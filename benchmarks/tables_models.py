"""Tables over many models."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]


def zoo(found: Results) -> str:
    """What can be removed from torchvision's CNNs: a line per model."""
    lines = [
        "| model | MACs | groups | frozen | smallest reachable | plan for half: MACs kept | difference, float64 "
        "| float32 | cost model = fvcore | s: groups proven + plan proven |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
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
        followed = [row for row in found["rows"] if "error" not in row]
        everywhere = reason.startswith("frozen") and len(names) == len(followed)
        who = "every model" if everywhere else ", ".join(names)
        lines.append(f"- {reason} ({who})")
    threads = found["rows"][0]["threads"]
    lines += ["", f"Differences relative to the largest logit; {found['device']}, {threads} threads used."]
    return "\n".join(lines)


def any_task(found: Results) -> str:
    """What can be removed from detectors, segmenters, hybrids and networks that split channels: a line per model."""
    lines = [
        "| model | kind | input | MACs | groups | frozen | smallest reachable | plan: MACs kept | difference, float64 "
        "| outputs | cost model = fvcore | ONNX, largest of all outputs | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    refused = []
    for row in found["rows"]:
        name = row["model"].partition(":")[2]
        if "refused" in row:
            refused.append(f"- {name}: {row['refused']}")
            continue
        plan, parity = row["plan"], row["onnx_parity"]
        cells = [
            name,
            row["kind"],
            row["input"],
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['groups']}",
            f"{len(row['frozen'])}",
            f"{100 * row['smallest_macs'] / row['macs']:.1f} %",
            f"{plan['macs'] / row['macs']:.4f}",
            f"{plan['max_rel']:.0e}",
            f"{len(plan['outputs'])}",
            "yes" if plan["cost_model_macs"] == plan["fvcore_macs"] else "NO",
            parity if isinstance(parity, str) else f"{max(parity.values()):.0e}",
            f"{plan['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if refused:
        lines += ["", *refused]
    lines += ["", f"Differences relative to each output's largest value; {found['device']}, one thread used."]
    return "\n".join(lines)
