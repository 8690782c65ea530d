"""The table of accuracy control: a file made bad on purpose, and the layers in FP32 that bring it back."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]

_FILES = {
    "per_channel": "a scale for each channel",
    "per_tensor": "a scale for each tensor",
    "sqnr_18": "the same with accuracy control, `sqnr_db: 18`",
    "agreement_97": "the same with accuracy control, `agreement: 97%`",
}


def int8_control(found: Results) -> str:
    """A line for each file that was measured."""
    lines = [
        "| file | layers in FP32, in the optimised graph | same class as FP32: validation, test | SQNR, validation | "
        "time of a call, over that with all layers in INT8 |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        kept = [f"{row[part]['agreement']:.1%}".replace("%", " %") for part in ("validation", "test")]
        ratio = row.get("accuracy_control", {}).get("time_ratio")
        time = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""
        lines.append(
            f"| {_FILES[row['row']]} | {len(row['float_layers_in_optimised_graph'])} | {', '.join(kept)} | "
            f"{row['validation']['sqnr_db']:.1f} dB | {time} |"
        )
    return "\n".join(lines)
