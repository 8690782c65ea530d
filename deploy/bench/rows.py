"""From times to the row that says what they mean."""

from __future__ import annotations

import numpy as np

from ..timing.rounds import Timing
from ..timing.statistics import Speedup, drift_of, noise_of, to_interval, to_quantiles, to_speedup, unsteadiness_of
from .models import BenchModel
from .probe import Tried
from .result import BenchRow, Reference, RowVerdict


def to_row(
    timing: Timing,
    against: Timing | None,
    tried: Tried,
    *,
    subject: BenchModel,
    file: str,
    runtime: str,
    precision: str,
    threads: int,
    batch: int,
    warm: bool,
    baseline: Reference,
    seed: int,
) -> BenchRow:
    """Sum up a model's times; ``against``: the baseline's in the same rounds, None for the baseline itself."""
    interval = to_interval(timing.host, seed=seed)
    noise = unsteadiness_of(timing.host, interval)
    speedup = device_speedup = None
    if against is not None:
        speedup = to_speedup(against.host, timing.host, seed=seed)
        noise = noise_of(against.host, timing.host, speedup)  # a ratio cancels what slows both: its own noise decides
        if against.device is not None and timing.device is not None:
            device_speedup = to_speedup(against.device, timing.device, seed=seed)
    mean = float(np.concatenate(timing.host).mean())
    return BenchRow(
        model=subject.name,
        file=file,
        runtime=runtime,
        precision=precision,
        macs=subject.macs,
        test_accuracy=subject.test_accuracy,
        threads=threads,
        batch=batch,
        sessions=len(timing.host),
        rounds=timing.rounds,
        warm=warm,
        host_ms=to_quantiles(timing.host),
        mean_ms=mean,
        median_interval_ms=interval,
        drift=drift_of(timing.host),
        images_per_second=1000 * batch / mean,
        device_ms=None if timing.device is None else to_quantiles(timing.device),
        host_memory_bytes=tried.host_bytes,
        device_memory_bytes=tried.device_bytes,
        baseline=baseline,
        speedup=speedup,
        device_speedup=device_speedup,
        speedup_drift=None if against is None else drift_of(against.host, timing.host),
        verdict=_verdict(speedup, noise),
        noise=noise,
    )


def _verdict(speedup: Speedup | None, noise: tuple[str, ...]) -> RowVerdict:
    if noise:
        return "noisy"
    if speedup is None:
        return "baseline"
    if speedup.low > 1:
        return "faster"
    return "slower" if speedup.high < 1 else "no difference"
