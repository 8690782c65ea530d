"""Latency of original, slim and dynamic model in one runtime, measured interleaved."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.runners import Runner

from .rounds import Clock, time_sessions
from .statistics import PERCENTILES, Quantiles, Speedup, speedup_noise, to_percentiles, to_quantiles, to_speedup


@dataclass(frozen=True)
class LatencyRow:
    """One measurement: same runtime, precision, threads, batch and images for every model.

    ``int8_ms``: of the slim model's INT8 file; ``int8_speedup``: over the original in ``precision``.
    """

    runtime: str
    precision: str
    threads: int
    batch: int
    original_ms: Quantiles
    slim_ms: Quantiles
    speedup: Speedup
    dynamic_ms: Quantiles | None = None
    percentiles_ms: dict[str, list[float]] | None = None
    int8_ms: Quantiles | None = None
    int8_speedup: Speedup | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row of ``latency`` in report.json; what was not measured is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def measure_latency(
    original: Runner,
    slim: Runner,
    images: NDArray[Any],
    *,
    threads: int,
    batch: int = 1,
    rounds: int = 200,
    sessions: int = 10,
    warmup: float = 5.0,
    seed: int = 0,
    dynamic: Runner | None = None,
    int8: Runner | None = None,
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter_ns,
) -> LatencyRow:
    """Time the runners in turn and summarise; ``threads`` is the number that the runners were made with.

    Raises:
        ConfigError: the runners differ in runtime, or those beside ``int8`` in precision, or there are no images.
        ExportError: a runner cannot be opened.
    """
    runners = {"original": original, "slim": slim} | ({"dynamic": dynamic} if dynamic is not None else {})
    alike = list(runners.values())
    runners |= {"int8": int8} if int8 is not None else {}

    def check_alike() -> None:
        kinds = {(runner.runtime, runner.precision) for runner in alike}
        if int8 is not None and int8.runtime != slim.runtime:
            kinds.add((int8.runtime, int8.precision))
        if len(kinds) > 1:
            listed = " and ".join(sorted(f"{runtime} {precision}" for runtime, precision in kinds))
            raise ConfigError(f"cannot compare {listed}: time models in the same runtime and precision")

    measured = time_sessions(
        runners,
        images,
        sessions=sessions,
        rounds=rounds,
        warmup=warmup,
        seed=seed,
        batch=batch,
        on_open=check_alike,
        progress=progress,
        clock=clock,
    )
    times = {name: timing.host for name, timing in measured.timings.items()}
    speedup = to_speedup(times["original"], times["slim"], seed=seed)
    if reasons := speedup_noise(times["original"], times["slim"], speedup):
        progress.note(f"noisy machine: {'; '.join(reasons)}; close other programs and measure again")
    return LatencyRow(
        runtime=slim.runtime,
        precision=slim.precision,
        threads=threads,
        batch=batch,
        original_ms=to_quantiles(times["original"]),
        slim_ms=to_quantiles(times["slim"]),
        speedup=speedup,
        dynamic_ms=to_quantiles(times["dynamic"]) if dynamic is not None else None,
        percentiles_ms={
            "percent": list(PERCENTILES),
            **{name: to_percentiles(ms) for name, ms in times.items() if name != "int8"},
        },
        int8_ms=to_quantiles(times["int8"]) if int8 is not None else None,
        int8_speedup=to_speedup(times["original"], times["int8"], seed=seed) if int8 is not None else None,
    )
