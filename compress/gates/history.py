"""How gates learned: what they cost and what they lost, from the first step to the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

POINTS = 60
"""So many points of a curve are kept at most; each is a mean over the steps since the one before."""


class GateHistory:
    """Collects the figures of every step into at most ``POINTS`` points.

    ``columns``: ``step`` counts from 1 to the last step of the point; ``macs`` and ``target`` are shares of the whole
    model's MACs (relaxed gates; what the schedule asked for at that step); ``ce`` in nats, ``residual`` (R_res) and,
    where gates are steered, ``steer`` as ISP Eq. 10 has them, unweighted.
    """

    def __init__(self, steps: int) -> None:
        self._every = math.ceil(steps / POINTS)
        self._steps = steps
        self._sums: dict[str, float] = {}
        self.columns: dict[str, list[float]] = {}

    def add(self, step: int, figures: Mapping[str, float], target: float) -> None:
        """Take up the figures of ``step`` (from 0)."""
        for name in ("macs", "ce", "residual", "steer"):
            if name in figures:
                self._sums[name] = self._sums.get(name, 0.0) + figures[name]
        since = step % self._every + 1
        if since < self._every and step + 1 < self._steps:
            return
        point = {"step": step + 1, "target": target, **{name: total / since for name, total in self._sums.items()}}
        for name, value in point.items():
            self.columns.setdefault(name, []).append(value if name == "step" else float(f"{value:.5g}"))
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where ``state_dict`` was taken."""
        self._sums, self.columns = state["sums"], state["columns"]
