"""Throughput meter of data loading: time spent waiting for images, moving them to the device, and computing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["waiting", "moving", "computing"]
_BOTTLENECK_SHARE = 0.1
"""Loading runs ahead of computing, so a larger share of the time spent waiting (or moving) is the bottleneck."""


@dataclass
class Flow:
    """Seconds spent in each part; one clock for all batches that use it, so that no second counts twice."""

    workers: int = 0
    images: int = 0
    seconds: dict[Part, float] = field(default_factory=lambda: {"waiting": 0.0, "moving": 0.0, "computing": 0.0})
    clock: Callable[[], float] = time.perf_counter
    _mark: float | None = None

    def lap(self, part: Part) -> None:
        """Count the time since the last lap as ``part``; the first lap starts the clock."""
        now = self.clock()
        if self._mark is not None:
            self.seconds[part] += now - self._mark
        self._mark = now

    @property
    def total(self) -> float:
        """Seconds since the first lap."""
        return sum(self.seconds.values())

    def share(self, part: Part) -> float:
        """Share of ``part`` in the total, 0..1."""
        return self.seconds[part] / self.total if self.total else 0.0

    @property
    def limit(self) -> Literal["decode", "transfer", "compute"]:
        """The bottleneck of throughput."""
        if self.share("waiting") > max(_BOTTLENECK_SHARE, self.share("moving")):
            return "decode"
        return "transfer" if self.share("moving") > _BOTTLENECK_SHARE else "compute"

    def in_words(self) -> str:
        """One clause: ``limited by decode: 71 % of the time waiting for images (310 images/s with 2 workers); ...``."""
        rate = f"{self.images / self.total:,.0f} images/s" if self.total else "no images"
        if self.limit == "decode":
            return (
                f"limited by decode: {self.share('waiting'):.0%} of the time waiting for images ({rate} with "
                f"data.workers {self.workers}); more workers (and cores) or a smaller image_size would help"
            ).replace("%", " %")
        if self.limit == "transfer":
            return (
                f"limited by transfer: {self.share('moving'):.0%} of the time moving images to the device ({rate})"
            ).replace("%", " %")
        return f"limited by compute: {self.share('waiting'):.0%} of the time waiting for images ({rate})".replace(
            "%", " %"
        )

    def to_metrics(self) -> dict[str, dict[str, float | int | str]]:
        """Figures for a stage's record: shares 0..1, seconds and the bottleneck; empty if no image was loaded."""
        if not self.images:
            return {}
        reading: dict[str, float | int | str] = {
            "images": self.images,
            "seconds": self.total,
            "workers": self.workers,
            "waiting": self.share("waiting"),
            "moving": self.share("moving"),
            "limit": self.limit,
        }
        return {"reading": reading}
