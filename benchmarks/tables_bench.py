"""The table of the latency lab: coverage of the intervals of speed-ups."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

STUDIES: dict[str, tuple[str, str, Callable[[Row], bool]]] = {
    "same": ("a model against itself", "contains 1", lambda row: row["low"] <= 1 <= row["high"]),
    "one_opening": ("the same, all rounds in one session", "contains 1", lambda row: row["low"] <= 1 <= row["high"]),
    "slowed": ("slowed on purpose", "lies below 1", lambda row: row["high"] < 1),
}


def latency_lab(found: Row) -> str:
    """A line per study."""
    lines = [
        "| | repeats | the 95 % interval | in | interval, width: median | largest | speed-up, mean ± s.d. | noisy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    slowed: list[float] = []
    for study, (label, claim, holds) in STUDIES.items():
        rows = [row for row in found["rows"] if row["study"] == study]
        ratios, widths = [row["speedup"] for row in rows], [100 * row["width"] for row in rows]
        slowed += [row["slowed_by"] for row in rows if row["slowed_by"] is not None]
        cells = [
            label,
            str(len(rows)),
            claim,
            f"{sum(map(holds, rows))} of {len(rows)}",
            f"{statistics.median(widths):.1f} %",
            f"{max(widths):.1f} %",
            f"{statistics.mean(ratios):.4f} ± {statistics.stdev(ratios):.4f}",
            str(sum(bool(row["noise"]) for row in rows)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    machine = found["machine"]
    milliseconds = statistics.median(row["median_ms"] for row in found["rows"])
    lines += [
        "",
        f"ResNet-20 at 32 in ONNX Runtime, one thread, batch 1, {milliseconds:.2f} ms a call; slowed by "
        f"{100 * statistics.median(slowed):.1f} % (arithmetic inside the call, measured). {machine['processor']}, "
        f"{machine['usable_cores']} cores.",
    ]
    return "\n".join(lines)
