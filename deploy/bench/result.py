"""The result of ``slimsight bench`` as data: rows with verdicts, models that could not run, and the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..report.units import plural
from ..timing.rounds import Timing
from ..timing.statistics import (
    MAX_DRIFT,
    MAX_VARIATION,
    MAX_WIDTH,
    Quantiles,
    Speedup,
    relative_drift,
    speedup_noise,
    time_noise,
    to_interval,
    to_quantiles,
    to_speedup,
)
from .models import BenchModel
from .probe import TrialResult

SCHEMA = 1

RowVerdict = Literal["baseline", "faster", "slower", "no difference", "noisy"]


@dataclass(frozen=True)
class SpeedupReference:
    """The model and the runtime that a speed-up refers to."""

    model: str
    runtime: str


@dataclass(frozen=True)
class BenchRow:
    """Figures of a model in a runtime at one batch size and number of threads.

    Times are of one call with ``batch`` images, from images in host memory to logits in host memory, by the host's
    clock; ``device_ms`` by the device's own, without the copies (None on a CPU). ``low`` and ``high`` of a speed-up and
    ``median_interval_ms`` are 95 % intervals. Memory is the growth of the peak of a process that opened only this
    model. ``images_per_second``: ``batch`` over the mean time. ``macs`` (of one image; a mean where images differ) and
    ``test_accuracy`` (0..1) are not measured here: they come from the model's run or its file.
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
    baseline: SpeedupReference
    speedup: Speedup | None
    device_speedup: Speedup | None
    speedup_drift: float | None
    verdict: RowVerdict
    noise: tuple[str, ...]

    @property
    def point(self) -> str:
        """The point of the sweep: ``batch 8, 2 threads``."""
        return f"batch {self.batch}, {plural(self.threads, 'thread')}"


@dataclass(frozen=True)
class Skipped:
    """A model that could not run, and why; ``batch`` and ``threads`` None: at no point of the sweep."""

    model: str
    runtime: str
    reason: str
    batch: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """A bench's rows with seed, settings, versions and machine; its ``verdict`` is ``noisy`` if one row is noisy."""

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
            "speedup_interval_width": MAX_WIDTH,
            "speedup_drift": MAX_DRIFT,
            "median_interval_width": MAX_VARIATION,
            "median_drift": MAX_VARIATION,
        }
        return {"schema": SCHEMA, "verdict": self.verdict, "thresholds": thresholds, **asdict(self)}


def to_row(
    timing: Timing,
    against: Timing | None,
    tried: TrialResult,
    *,
    model: BenchModel,
    file: str,
    runtime: str,
    precision: str,
    threads: int,
    batch: int,
    warm: bool,
    baseline: SpeedupReference,
    seed: int,
) -> BenchRow:
    """Summarise a model's times; ``against``: the baseline's in the same rounds, None for the baseline itself."""
    interval = to_interval(timing.host, seed=seed)
    noise = time_noise(timing.host, interval)
    speedup = device_speedup = None
    if against is not None:
        speedup = to_speedup(against.host, timing.host, seed=seed)
        noise = speedup_noise(
            against.host, timing.host, speedup
        )  # a slow machine cancels in the ratio: only its own noise counts
        if against.device is not None and timing.device is not None:
            device_speedup = to_speedup(against.device, timing.device, seed=seed)
    mean = float(np.concatenate(timing.host).mean())
    return BenchRow(
        model=model.name,
        file=file,
        runtime=runtime,
        precision=precision,
        macs=model.macs,
        test_accuracy=model.test_accuracy,
        threads=threads,
        batch=batch,
        sessions=len(timing.host),
        rounds=timing.rounds,
        warm=warm,
        host_ms=to_quantiles(timing.host),
        mean_ms=mean,
        median_interval_ms=interval,
        drift=relative_drift(timing.host),
        images_per_second=1000 * batch / mean,
        device_ms=None if timing.device is None else to_quantiles(timing.device),
        host_memory_bytes=tried.host_bytes,
        device_memory_bytes=tried.device_bytes,
        baseline=baseline,
        speedup=speedup,
        device_speedup=device_speedup,
        speedup_drift=None if against is None else relative_drift(against.host, timing.host),
        verdict=_row_verdict(speedup, noise),
        noise=noise,
    )


def _row_verdict(speedup: Speedup | None, noise: tuple[str, ...]) -> RowVerdict:
    if noise:
        return "noisy"
    if speedup is None:
        return "baseline"
    if speedup.low > 1:
        return "faster"
    return "slower" if speedup.high < 1 else "no difference"
