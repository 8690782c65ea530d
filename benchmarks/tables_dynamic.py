"""The table of the dynamic variant."""

from __future__ import annotations

from typing import Any

LABELS = {
    "original": "original",
    "slim": "slim",
    "dynamic_masked": "dynamic, masked",
    "dynamic_routed": "dynamic, routed",
}


def dynamic(found: dict[str, Any]) -> str:
    """Original, slim and dynamic: a line per model and variant."""
    lines = [
        "| model | weights | variant | MACs, mean | test | ms | speed-up | realised |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [
            row["model"].removeprefix("torchvision:").replace("@", " at "),
            row["weights"],
            LABELS[row["variant"]],
            f"{row['macs_mean'] / 1e6:.1f} M ({row['macs_mean'] / row['macs']:.3f})",
            _text(row["test_accuracy"], ".4f"),
            _text(row["latency_ms"], ".3f"),
            _text(row["speedup"], ".2f"),
            _text(row["realised"], ".3f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Realised: speed-up / (MACs original / MACs mean). Random weights: two random masks per layer, in multiples "
        "of 16 channels if a layer has 32 or more; accuracy means nothing there. ONNX Runtime, one thread, batch 1, "
        f"medians of interleaved rounds on {found['device']}.",
    ]
    return "\n".join(lines)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
