"""Time the original and the slim model in turn, so that whatever disturbs the machine disturbs both alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Count, Positive, Section
from compress.errors import ConfigError
from compress.progress import SILENT, Progress
from export.runners import Runner, to_input

Clock = Callable[[], int]  # nanoseconds, monotonic
Times = dict[str, NDArray[np.float64]]  # runner -> ms of each round

_WINDOW = 10  # rounds whose median is compared with the median of the same number before them
_STEADY = 0.05  # relative difference of those medians that counts as warm
_NOISY = 1.25  # p90 / median above which times are called noisy
_CHUNK = 100  # resamples drawn at once: bounds memory at _CHUNK * rounds


class LatencyConfig(Section):
    """How latency is measured (``latency``)."""

    threads: Count = 1
    batch: Count = 1
    rounds: Annotated[int, Field(ge=20)] = Field(default=200, description="timed calls of each model")
    warmup_seconds: Positive = Field(default=5.0, description="limit; warm-up ends once times are steady")


@dataclass(frozen=True)
class Quantiles:
    """Of the times of single calls, in ms."""

    median: float
    p90: float
    p99: float

    @property
    def dispersion(self) -> float:
        """p90 / median: near 1 on a quiet machine."""
        return self.p90 / self.median


@dataclass(frozen=True)
class Speedup:
    """Median time of the original over median time of the slim model, with its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyRow:
    """One measurement: same runtime, precision, threads, batch and images for every model."""

    runtime: str
    precision: str
    threads: int
    batch: int
    original_ms: Quantiles
    slim_ms: Quantiles
    speedup: Speedup
    dynamic_ms: Quantiles | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row of ``latency`` in report.json; ``dynamic_ms`` only where it was measured."""
        row = asdict(self)
        if self.dynamic_ms is None:
            del row["dynamic_ms"]
        return row


def time_interleaved(
    runners: Mapping[str, Runner],
    images: NDArray[Any],
    *,
    rounds: int,
    warmup: float,
    seed: int,
    batch: int = 1,
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter_ns,
) -> Times:
    """Time every runner once per round, on the round's images, in an order drawn anew each round.

    Garbage collection is off while the rounds run, and back as it was afterwards.

    Args:
        runners: open runners, by the name their times get.
        images: real images (N, 3, H, W), uint8 or floating point; each round takes the next ``batch``.
        rounds: timed calls of each runner.
        warmup: seconds after which warm-up ends even when times still drift (a note says so).
        seed: draws the orders.
        batch: images per call.
        progress: where rounds and notes are shown.
        clock: nanoseconds.

    Returns:
        ms of each round, (rounds,) for each runner; entry k of all runners is the same round.

    Raises:
        ConfigError: no runners, no images, or no rounds.
    """
    if not runners or len(images) == 0 or rounds < 1 or batch < 1:
        raise ConfigError(
            f"{len(runners)} runners, {len(images)} images, {rounds} rounds, batch {batch}: latency "
            "needs 1 or more of each"
        )
    names = list(runners)
    draw = np.random.default_rng(seed)

    def one_round(k: int) -> dict[str, float]:
        """ms of each runner; the images are prepared before any clock runs."""
        chosen = to_input(images[np.arange(k * batch, (k + 1) * batch) % len(images)])
        return {names[i]: _call_ms(runners[names[i]], chosen, clock) for i in draw.permutation(len(names))}

    with _no_garbage_collection():
        if not _warm_up(one_round, warmup, clock):
            progress.note(f"times still drifted after {warmup:g} s of warm-up: early rounds may be slow")
        times = {name: np.empty(rounds) for name in names}
        for k in progress.track(range(rounds), "latency", total=rounds, unit="rounds"):
            for name, elapsed in one_round(k).items():
                times[name][k] = elapsed
    return times


def to_quantiles(times: NDArray[np.float64]) -> Quantiles:
    """Median, p90 and p99 of times in ms."""
    median, p90, p99 = np.quantile(times, (0.5, 0.9, 0.99))
    return Quantiles(float(median), float(p90), float(p99))


def to_speedup(
    original: NDArray[np.float64], slim: NDArray[np.float64], *, seed: int, resamples: int = 2000
) -> Speedup:
    """Ratio of medians original / slim and its 95 % percentile bootstrap interval.

    Whole rounds are drawn: what slowed a round slowed both models, and stays so in each resample.

    Args:
        original, slim: ms, (rounds,), entry k of the same round.
        seed: draws the resamples.
        resamples: how many.
    """
    assert original.shape == slim.shape
    draw = np.random.default_rng(seed)
    ratios: list[NDArray[np.float64]] = []
    for start in range(0, resamples, _CHUNK):
        rounds = draw.integers(len(slim), size=(min(_CHUNK, resamples - start), len(slim)))
        ratios.append(np.median(original[rounds], axis=1) / np.median(slim[rounds], axis=1))
    low, high = np.quantile(np.concatenate(ratios), (0.025, 0.975))
    return Speedup(float(np.median(original) / np.median(slim)), float(low), float(high))


def noise_note(times: Mapping[str, NDArray[np.float64]]) -> str | None:
    """One line when single calls scatter so much that the machine was busy; None when it was quiet."""
    worst = max(times, key=lambda name: to_quantiles(times[name]).dispersion)
    dispersion = to_quantiles(times[worst]).dispersion
    if dispersion <= _NOISY:
        return None
    return (
        f"noisy machine: p90 is {dispersion:.2f} times the median for {worst}; close other programs and measure again"
    )


def measure_latency(
    original: Runner,
    slim: Runner,
    images: NDArray[Any],
    *,
    threads: int,
    batch: int = 1,
    rounds: int = 200,
    warmup: float = 5.0,
    seed: int = 0,
    dynamic: Runner | None = None,
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter_ns,
) -> LatencyRow:
    """Open the runners, time them in turn and sum up; ``threads`` is what the runners were made with.

    Raises:
        ConfigError: the runners differ in runtime or precision, or there are no images.
        ExportError: a runner cannot be opened.
    """
    runners = {"original": original, "slim": slim} | ({"dynamic": dynamic} if dynamic is not None else {})
    with ExitStack() as stack:
        for runner in runners.values():
            stack.enter_context(runner)
        kinds = {(runner.runtime, runner.precision) for runner in runners.values()}
        if len(kinds) > 1:
            listed = " and ".join(sorted(f"{runtime} {precision}" for runtime, precision in kinds))
            raise ConfigError(f"cannot compare {listed}: time models in the same runtime and precision")
        times = time_interleaved(
            runners,
            images,
            rounds=rounds,
            warmup=warmup,
            seed=seed,
            batch=batch,
            progress=progress,
            clock=clock,
        )
    note = noise_note(times)
    if note is not None:
        progress.note(note)
    return LatencyRow(
        runtime=slim.runtime,
        precision=slim.precision,
        threads=threads,
        batch=batch,
        original_ms=to_quantiles(times["original"]),
        slim_ms=to_quantiles(times["slim"]),
        speedup=to_speedup(times["original"], times["slim"], seed=seed),
        dynamic_ms=to_quantiles(times["dynamic"]) if dynamic is not None else None,
    )


def _call_ms(runner: Runner, images: NDArray[np.float32], clock: Clock) -> float:
    start = clock()
    runner.run(images)
    return (clock() - start) / 1e6


def _warm_up(one_round: Callable[[int], dict[str, float]], seconds: float, clock: Clock) -> bool:
    """Run rounds until the rolling median of every runner is steady; False when ``seconds`` ran out first."""
    deadline = clock() + seconds * 1e9
    history: dict[str, list[float]] = {}
    rounds = 0
    while True:
        for name, elapsed in one_round(rounds).items():
            history.setdefault(name, []).append(elapsed)
        rounds += 1
        if rounds >= 2 * _WINDOW and all(_is_steady(times) for times in history.values()):
            return True
        if clock() >= deadline:
            return False


def _is_steady(times: list[float]) -> bool:
    before, now = float(np.median(times[-2 * _WINDOW : -_WINDOW])), float(np.median(times[-_WINDOW:]))
    return abs(now - before) <= _STEADY * before


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now, and then not before the block has ended."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
