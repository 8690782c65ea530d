"""What ``slimsight bench`` found, as data: rows, what could not run, and what it was measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..timing.statistics import DRIFT, UNSTEADY, WIDE, Quantiles, Speedup

SCHEMA = 1

RowVerdict = Literal["baseline", "faster", "slower", "no difference", "noisy"]


@dataclass(frozen=True)
class Reference:
    """What a speed-up refers to."""

    model: str
    runtime: str


@dataclass(frozen=True)
class BenchRow:
    """A model in a runtime at one batch size and number of threads.

    Times are of one call with ``batch`` images, from images in host memory to logits in host memory, by the host's
    clock; ``device_ms`` by the device's own, without the copies (None on a CPU). ``low`` and ``high`` of a speed-up and
    ``median_interval_ms`` are 95 % intervals. Memory is what the peak of a process grew by that opened this model
    alone. ``images_per_second``: ``batch`` over the mean time. ``macs`` (of one image; a mean where images differ) and
    ``test_accuracy`` (0..1) are not measured here but those of the model's run, or what its file states.
    """

    model: str
    file: str
    runtime: str
    precision: str
    macs: float | None
    test_accuracy: float | None
    threads: int
    batch: int
    sessions: int
    rounds: int
    warm: bool
    host_ms: Quantiles
    mean_ms: float
    median_interval_ms: tuple[float, float]
    drift: float
    images_per_second: float
    device_ms: Quantiles | None
    host_memory_bytes: int | None
    device_memory_bytes: int | None
    baseline: Reference
    speedup: Speedup | None
    device_speedup: Speedup | None
    speedup_drift: float | None
    verdict: RowVerdict
    noise: tuple[str, ...]

    @property
    def point(self) -> str:
        """Where in the sweep: ``batch 8, 2 threads``."""
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Skipped:
    """What could not run, and why; ``batch`` and ``threads`` None: at no point of the sweep."""

    model: str
    runtime: str
    reason: str
    batch: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """All of it; ``verdict`` is ``noisy`` as soon as one row is."""

    created: str
    seed: int
    baseline: str
    images: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    runtimes: dict[str, str | None]
    rows: tuple[BenchRow, ...]
    skipped: tuple[Skipped, ...]

    @property
    def verdict(self) -> Literal["noisy", "clear"]:
        return "noisy" if any(row.noise for row in self.rows) else "clear"

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema 1."""
        thresholds = {
            "speedup_interval_width": WIDE,
            "speedup_drift": DRIFT,
            "median_interval_width": UNSTEADY,
            "median_drift": UNSTEADY,
        }
        return {"schema": SCHEMA, "verdict": self.verdict, "thresholds": thresholds, **asdict(self)}
