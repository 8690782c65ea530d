"""History of a gate training: figures of all steps, averaged into few points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_POINTS = 60
"""Most points of a history as long as planned; each is a mean over the steps since the one before."""


class GateHistory:
    """Figures of all training steps, averaged into at most ``MAX_POINTS`` points; an extension adds points.

    ``columns``: ``step`` counts from 1 to the last step of the point; ``macs`` and ``target`` are shares of the
    unpruned model's MACs (of the relaxed gates; of the schedule at that step); ``ce`` (without labels the KL) in nats,
    ``residual`` (R_res) and, where gates are steered, ``steer`` are terms of ISP Eq. 10, unweighted.
    """

    def __init__(self, steps: int) -> None:
        self._interval = math.ceil(steps / MAX_POINTS)
        self._sums: dict[str, float] = {}
        self._count = 0
        self.columns: dict[str, list[float]] = {}

    def add(self, step: int, figures: Mapping[str, float], target: float, *, last: bool = False) -> None:
        """Add the figures of ``step`` (from 0); ``last``: the point ends here, however few steps are in it."""
        for name in ("macs", "ce", "residual", "steer"):
            if name in figures:
                self._sums[name] = self._sums.get(name, 0.0) + figures[name]
        self._count += 1
        if self._count < self._interval and not last:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        for name, value in {"step": step + 1, "target": target, **means}.items():
            self.columns.setdefault(name, []).append(value if name == "step" else float(f"{value:.5g}"))
        self._sums, self._count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "count": self._count, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from ``state_dict``."""
        self._sums, self._count, self.columns = state["sums"], state["count"], state["columns"]
