"""Assertion on the latency of a model, with the noise of the machine that measured it."""

from __future__ import annotations

import os
import time
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slimsight.compress.amounts import TIME_UNITS, to_amount
from slimsight.compress.errors import ConfigError
from slimsight.compress.models.user_code import UserCode
from slimsight.compress.modes import eval_mode
from slimsight.export.runners import TorchRunner

from ..report.units import as_ms, as_times, plural
from ..timing.rounds import time_sessions
from ..timing.statistics import speedup_noise, time_noise, to_interval, to_quantiles, to_speedup
from .arguments import Images, check_module, to_images, to_maximum
from .outcome import AssertionOutcome, check_cost, value_or_raise

_read_time = partial(to_amount, what="latency", units=TIME_UNITS, example="'3ms', '800us'")
_SESSIONS = 10
_WARM_UP = 1.0  # seconds at most, of each session
_PROFILED = 5  # calls
_SEED = 0


def assert_latency(
    model: nn.Module,
    x: Images,
    max: str | float,
    *,
    against: nn.Module | None = None,
    threads: int = 1,
    rounds: int = 100,
    seconds: float = 20.0,
    under_xdist: bool = False,
) -> float:
    """Fail if the median call of ``model``, as PyTorch runs it here, takes longer than ``max``.

    ``model`` and ``against`` take turns, in ten sessions, after warm-up. A pass on a noisy machine warns; a failure
    says the noise. Times on a shared machine wander by more than most budgets allow: prefer a share of ``against``.

    Args:
        model: runs where its parameters are, in eval mode meanwhile.
        x: the images of one call, or their shape: ``"3x224x224"`` is one image, ``(8, 3, 224, 224)`` are eight.
        max: ``"3 ms"``, or a share of the median of ``against``: ``"60%"``, 0.6.
        against: the baseline, by name: ``against=original``.
        threads: of the CPU.
        rounds: timed calls of each model; fewer once ``seconds`` are over.
        under_xdist: measure in a worker of pytest-xdist too, where the other workers take the cores: it is skipped
            there otherwise.

    Returns: the median in ms.

    Raises:
        AssertionError: slower; the text names the three layers that take longest.
        SlimError: the model does not take such images, or ``max`` is not a valid time.
    """
    __tracebackhide__ = True
    if not under_xdist and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        import pytest

        # Not a failure of the model: a latency measured beside busy workers means nothing.
        pytest.skip(
            f"latency is not measured in {worker} of pytest-xdist: the other workers take its cores; run this test "
            "without -n, or say assert_latency(..., under_xdist=True)"
        )
    return value_or_raise(lambda: _check_latency(model, x, max, against, threads, rounds, seconds))


def _check_latency(
    model: nn.Module, x: Images, maximum: object, against: nn.Module | None, threads: int, rounds: int, seconds: float
) -> AssertionOutcome:
    models = {"model": check_module(model)}
    if against is not None:
        models["against"] = check_module(against, "against")
    if threads < 1 or rounds < _SESSIONS or seconds <= 0:
        raise ConfigError(
            f"threads={threads}, rounds={rounds}, seconds={seconds}: give 1 thread or more, {_SESSIONS} rounds or more "
            "and some seconds"
        )
    to_maximum(maximum, against, "ms", read=_read_time, cost=lambda _: 0.0)  # before anything is timed
    images = to_images(x, model)
    size = "x".join(map(str, images.shape[1:]))
    for name, each in models.items():
        with UserCode(f"{name} does not take {size} images"), torch.inference_mode(), eval_mode(each):
            each(images)
    times = _time(models, images.float().cpu().numpy(), threads, rounds, seconds)
    figures = {name: to_quantiles(parts) for name, parts in times.items()}
    limit, ratio = to_maximum(maximum, against, "ms", read=_read_time, cost=lambda _: figures["against"].median)
    low, high = to_interval(times["model"], seed=_SEED)
    count = sum(len(part) for part in times["model"])
    notes = [
        f"median of {count} calls in {_SESSIONS} sessions, batch {len(images)}, {plural(threads, 'thread')}; "
        f"95 % interval {as_ms(low)} to {as_ms(high)}"
    ]
    noise = time_noise(times["model"], (low, high))
    if against is not None:
        speedup = to_speedup(times["against"], times["model"], seed=_SEED)
        noise = speedup_noise(times["against"], times["model"], speedup)
        interval = f"{as_times(speedup.low)} to {as_times(speedup.high)}"
        notes.append(f"{as_times(speedup.median)} as fast as against ({interval})")
    if noise:
        notes.append(f"noisy: {'; '.join(noise)}")
    outcome = check_cost(
        "latency",
        figures["model"].median,
        limit,
        "ms",
        by_layer=lambda: _layer_times(model, images, threads),
        heading="layers that take longest (each on its own clock)",
        ratio=ratio,
        notes=tuple(notes),
    )
    if noise and outcome.failure is None:
        warnings.warn(f"latency {as_ms(outcome.value)}, {'; '.join(noise)}: measured on a noisy machine", stacklevel=5)
    return outcome


def _time(
    models: dict[str, nn.Module], images: NDArray[np.float32], threads: int, rounds: int, seconds: float
) -> dict[str, tuple[NDArray[Any], ...]]:
    runners = {name: TorchRunner(module, threads, name=name) for name, module in models.items()}
    measured = time_sessions(
        runners,
        images,
        sessions=_SESSIONS,
        rounds=rounds,
        warmup=_WARM_UP,
        seed=_SEED,
        batch=len(images),
        seconds=seconds,
    )
    return {name: timing.host for name, timing in measured.timings.items()}


def _layer_times(model: nn.Module, images: torch.Tensor, threads: int) -> dict[str, float]:
    """Median ms of each module without children over a few calls; on a GPU, of launching it, not of computing."""
    calls: list[dict[str, float]] = []
    began: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue

        def start(_module: nn.Module, _inputs: Any, name: str = name) -> None:
            began[name] = time.perf_counter()

        def stop(_module: nn.Module, _inputs: Any, _output: Any, name: str = name) -> None:
            calls[-1][name] = calls[-1].get(name, 0.0) + (time.perf_counter() - began[name]) * 1e3

        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), eval_mode(model):
            for _ in range(_PROFILED):
                calls.append({})
                model(images)
    finally:
        torch.set_num_threads(before)
        for handle in handles:
            handle.remove()
    return {name: float(np.median([call.get(name, 0.0) for call in calls])) for name in calls[0]}
