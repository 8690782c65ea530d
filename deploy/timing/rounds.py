"""Interleaved timing of models: one call of each per round, in sessions, so that disturbances hit all models alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.runners import Runner, to_input

Clock = Callable[[], int]  # nanoseconds, monotonic
Times = dict[str, NDArray[np.float64]]  # ms of each round, by runner

_WINDOW = 10  # rounds whose median is compared with the median of the same number before them
_TOLERANCE = 0.05  # relative difference of those medians below which times are steady
_MIN_SLOW = 4  # minimum for comparing halves, where the warm-up ended before two windows were full
_MIN_ROUNDS = 5  # of a session, even past its time limit


@dataclass(frozen=True)
class Timing:
    """ms of each call of one model, an array per session: by the host's clock, and by the device's if there is one."""

    host: tuple[NDArray[np.float64], ...]
    device: tuple[NDArray[np.float64], ...] | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds of all sessions."""
        return sum(len(part) for part in self.host)


@dataclass(frozen=True)
class MeasuredTimes:
    """Result of ``time_sessions``: timings by runner; ``warm``: times were steady at the end of every warm-up."""

    timings: dict[str, Timing]
    warm: bool


def time_sessions(
    runners: Mapping[str, Runner],
    images: NDArray[Any],
    *,
    sessions: int,
    rounds: int,
    warmup: float,
    seed: int,
    batch: int = 1,
    seconds: float | None = None,
    on_open: Callable[[], None] | None = None,
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter_ns,
) -> MeasuredTimes:
    """Time runners in sessions; each opens all runners, warms up, times one call of each per round, and closes them.

    The order of opening is random, and reversed in every second session: the runner opened last is often faster.

    Args:
        runners: closed runners by name; each is opened once per session.
        images: real images (N, 3, H, W), uint8 or floating point; each round takes the next ``batch``.
        sessions: number of sessions.
        rounds: timed calls of each runner, divided among the sessions.
        warmup: seconds after which the warm-up of a session ends even when times still drift (a note says so).
        seed: of the random orders of opening and of the calls.
        seconds: time limit, divided among the sessions; a few rounds of each session are timed in any case.
        on_open: called once, when the runners are open for the first time.

    Raises:
        ConfigError: no runners, no images, or no rounds.
        ExportError: a runner cannot be opened.
    """
    _check_counts(len(runners), len(images), rounds, batch, sessions)
    names = list(runners)
    draw = np.random.default_rng(seed)
    order = names
    by_session: list[dict[str, Timing]] = []
    warm = True
    with _no_garbage_collection():
        for session in progress.track(range(sessions), "latency", total=sessions, unit="sessions"):
            order = [names[i] for i in draw.permutation(len(names))] if session % 2 == 0 else order[::-1]
            with ExitStack() as stack:
                for name in order:
                    stack.enter_context(runners[name])
                if on_open is not None and session == 0:
                    on_open()
                timings, steady = _time_open(
                    runners,
                    images,
                    first=session * rounds // sessions,
                    rounds=max(1, (session + 1) * rounds // sessions - session * rounds // sessions),
                    seconds=None if seconds is None else seconds / sessions,
                    warmup=warmup,
                    draw=draw,
                    batch=batch,
                    progress=progress,
                    clock=clock,
                )
            warm = warm and steady
            by_session.append(timings)
    if not warm:
        progress.note(_drift_note(warmup))
    return MeasuredTimes({name: _join_sessions([timings[name] for timings in by_session]) for name in names}, warm)


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
    """Time open runners in one session: ms of each round, (rounds,) for each runner.

    Arguments and errors as of ``time_sessions``. An interval of these times does not include the variation between
    openings of a model.
    """
    _check_counts(len(runners), len(images), rounds, batch, 1)
    with _no_garbage_collection():
        timings, steady = _time_open(
            runners,
            images,
            first=0,
            rounds=rounds,
            seconds=None,
            warmup=warmup,
            draw=np.random.default_rng(seed),
            batch=batch,
            progress=progress,
            clock=clock,
        )
    if not steady:
        progress.note(_drift_note(warmup))
    return {name: timing.host[0] for name, timing in timings.items()}


def _check_counts(runners: int, images: int, rounds: int, batch: int, sessions: int) -> None:
    if min(runners, images, rounds, batch, sessions) < 1:
        raise ConfigError(
            f"{runners} runners, {images} images, {rounds} rounds, {sessions} sessions, batch {batch}: latency needs "
            "1 or more of each"
        )


def _drift_note(warmup: float) -> str:
    return f"times still drifted after {warmup:g} s of warm-up: early rounds may be slow"


def _time_open(
    runners: Mapping[str, Runner],
    images: NDArray[Any],
    *,
    first: int,
    rounds: int,
    seconds: float | None,
    warmup: float,
    draw: np.random.Generator,
    batch: int,
    progress: Progress,
    clock: Clock,
) -> tuple[dict[str, Timing], bool]:
    """Warm up, then time one call of each runner per round, in random order; also whether times were steady.

    ``first`` is the number of the first round: sessions take different images.
    """
    names = list(runners)

    def one_round(k: int) -> dict[str, tuple[float, float | None]]:
        """ms of each runner by both clocks; the images are prepared before any clock runs."""
        inputs = to_input(images[np.arange(k * batch, (k + 1) * batch) % len(images)])
        return {names[i]: _call_ms(runners[names[i]], inputs, clock) for i in draw.permutation(len(names))}

    host: dict[str, list[float]] = {name: [] for name in names}
    device: dict[str, list[float | None]] = {name: [] for name in names}
    steady = _warm_up(one_round, warmup, clock)
    deadline = None if seconds is None else clock() + seconds * 1e9
    for k in progress.track(range(first, first + rounds), "rounds", total=rounds, unit="rounds"):
        for name, (on_host, on_device) in one_round(k).items():
            host[name].append(on_host)
            device[name].append(on_device)
        if deadline is not None and k - first + 1 >= _MIN_ROUNDS and clock() >= deadline:
            break
    return {name: Timing((np.array(host[name]),), _device_times(device[name])) for name in names}, steady


def _device_times(times: Sequence[float | None]) -> tuple[NDArray[np.float64], ...] | None:
    known = [value for value in times if value is not None]
    return (np.array(known),) if len(known) == len(times) else None


def _join_sessions(parts: Sequence[Timing]) -> Timing:
    """One ``Timing`` of all sessions of a runner."""
    devices = [part.device for part in parts if part.device is not None]
    return Timing(
        tuple(times for part in parts for times in part.host),
        tuple(times for device in devices for times in device) if len(devices) == len(parts) else None,
    )


def _call_ms(runner: Runner, images: NDArray[np.float32], clock: Clock) -> tuple[float, float | None]:
    """ms until the logits are in host memory, by the host's clock; and by the device's, if the runner has one."""
    start = clock()
    runner.run(images)
    elapsed = (clock() - start) / 1e6
    return elapsed, getattr(runner, "device_ms", None)


def _warm_up(
    one_round: Callable[[int], Mapping[str, tuple[float, float | None]]], seconds: float, clock: Clock
) -> bool:
    """Run rounds until the rolling median of every runner is steady; False when ``seconds`` ran out first."""
    deadline = clock() + seconds * 1e9
    history: dict[str, list[float]] = {}
    rounds = 0
    while True:
        for name, (elapsed, _) in one_round(rounds).items():
            history.setdefault(name, []).append(elapsed)
        rounds += 1
        if rounds >= 2 * _WINDOW and all(_is_steady(times, _WINDOW) for times in history.values()):
            return True
        if clock() >= deadline:
            # Calls that take a second never fill two windows: compare halves instead.
            window = rounds // 2
            return _MIN_SLOW <= rounds < 2 * _WINDOW and all(_is_steady(times, window) for times in history.values())


def _is_steady(times: list[float], window: int) -> bool:
    before, now = float(np.median(times[-2 * window : -window])), float(np.median(times[-window:]))
    return abs(now - before) <= _TOLERANCE * before


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and turn collection off inside the block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
