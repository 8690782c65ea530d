"""Latency of a target on this machine, in turn with a baseline where there is one."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import Progress

from ..budget import TimedFigures
from ..report.units import plural
from ..settings.latency import LatencyConfig
from .target import Target

_IMAGES = 64
_SEED = 0
_OWN_RUNTIMES = {"pt2": "pt2", "model": "torch"}
"""Of targets that are no ONNX files."""


def measure_latency(target: Target, baseline: Target | None, config: LatencyConfig, progress: Progress) -> TimedFigures:
    """Time the target (and the baseline) on random images; each session opens the models anew.

    Raises:
        ConfigError: the target has no model to time, or differs from the baseline in runtime or image size.
        ExportError: a file cannot be opened or run.
    """
    if "torch" not in sys.modules:
        # Threads of one model that spin after their work would take the core from the model timed next.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from slimsight.export.runners.choose import open_runner

    from ..timing.plan_latency import check_timing
    from ..timing.rounds import time_sessions
    from ..timing.statistics import speedup_noise, time_noise, to_interval, to_quantiles, to_speedup

    models = {"target": target} | ({"baseline": baseline} if baseline is not None else {})
    runtime = _OWN_RUNTIMES.get(target.kind, config.runtime)
    if runtime == config.runtime:
        check_timing(config, plans=False)
    if baseline is not None and (baseline_runtime := _OWN_RUNTIMES.get(baseline.kind, config.runtime)) != runtime:
        raise ConfigError(
            f"the target runs in {runtime} and the baseline in {baseline_runtime}: name a baseline of the target's form"
        )
    sizes = {model.image for model in models.values()}
    if len(sizes) > 1:
        raise ConfigError("the target and the baseline take images of different sizes: name a baseline of its size")
    if target.runs is None or target.image is None:
        raise ConfigError(f"{target.name} has no slim/model.onnx that could be timed: export it to onnx first")
    runners = {}
    for name, model in models.items():
        assert model.runs is not None
        runners[name] = open_runner(model.runs(), runtime, config.threads)
    images = np.random.default_rng(_SEED).integers(0, 256, (_IMAGES, *target.image), dtype=np.uint8)
    measured = time_sessions(
        runners,
        images,
        sessions=config.sessions,
        rounds=config.rounds,
        warmup=config.warmup_seconds,
        seed=_SEED,
        batch=config.batch,
        progress=progress,
    )
    times = measured.timings["target"].host
    runner = runners["target"]
    threads = plural(config.threads, "thread")
    where = f"{runner.runtime} {runner.precision}, {threads}, batch {config.batch}, on this machine"
    timed = TimedFigures(where, to_quantiles(times).median)
    if baseline is None:
        return replace(timed, noise=time_noise(times, to_interval(times, seed=_SEED)))
    before = measured.timings["baseline"].host
    speedup = to_speedup(before, times, seed=_SEED)
    return replace(
        timed,
        reference_ms=to_quantiles(before).median,
        speedup_low=speedup.low,
        noise=speedup_noise(before, times, speedup),
    )
