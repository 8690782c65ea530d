"""Time models in turn, so that whatever disturbs the machine disturbs all alike: rounds, in sessions."""

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
Times = dict[str, NDArray[np.float64]]  # runner -> ms of each round

_WINDOW = 10  # rounds whose median is compared with the median of the same number before them
_STEADY = 0.05  # relative difference of those medians that counts as warm
_SLOW = 4  # where time ran out before two windows were full: rounds that halves are compared of, at least
_FEWEST = 5  # rounds of a session, however slow


@dataclass(frozen=True)
class Timing:
    """ms of each call of one model, by session: on the host's clock, and on the device's where the runner has one."""

    host: tuple[NDArray[np.float64], ...]
    device: tuple[NDArray[np.float64], ...] | None = None

    @property
    def rounds(self) -> int:
        """Of all sessions."""
        return sum(len(part) for part in self.host)


@dataclass(frozen=True)
class Measured:
    """Times by runner; ``warm``: whether they were steady at the end of every warm-up."""

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
) -> Measured:
    """Open all runners anew in each session, warm up, time one call of each per round, and close them.

    The order of opening is drawn, and turned round in every second session: what is opened last is often faster.

    Args:
        runners: closed runners that can be opened more than once, by the name their times get.
        images: real images (N, 3, H, W), uint8 or floating point; each round takes the next ``batch``.
        sessions: how often everything is opened.
        rounds: timed calls of each runner, shared out among the sessions.
        warmup: seconds after which the warm-up of a session ends even when times still drift (a note says so).
        seed: draws the orders of opening and of the calls.
        seconds: stop after this time, shared out among the sessions, but not before a few rounds of each.
        on_open: called once, when the runners are open for the first time.

    Raises:
        ConfigError: no runners, no images, or no rounds.
        ExportError: a runner cannot be opened.
    """
    if min(len(runners), len(images), rounds, batch, sessions) < 1:
        raise ConfigError(
            f"{len(runners)} runners, {len(images)} images, {rounds} rounds, {sessions} sessions, batch {batch}: "
            "latency needs 1 or more of each"
        )
    names = list(runners)
    draw = np.random.default_rng(seed)
    order = names
    found: list[dict[str, Timing]] = []
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
            found.append(timings)
    if not warm:
        progress.note(_drifted(warmup))
    return Measured({name: _joined([timings[name] for timings in found]) for name in names}, warm)


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
    """One session with runners that are open already: ms of each round, (rounds,) for each runner.

    Arguments and errors as of ``time_sessions``. An interval of these times does not know that opening the models
    again would move them.
    """
    if not runners or len(images) == 0 or rounds < 1 or batch < 1:
        raise ConfigError(
            f"{len(runners)} runners, {len(images)} images, {rounds} rounds, batch {batch}: latency "
            "needs 1 or more of each"
        )
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
        progress.note(_drifted(warmup))
    return {name: timing.host[0] for name, timing in timings.items()}


def _drifted(warmup: float) -> str:
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
    """Warm up, then one call of every runner per round, in an order drawn anew each round.

    ``first`` is the first round's number: sessions take different images.
    """
    names = list(runners)

    def one_round(k: int) -> dict[str, tuple[float, float | None]]:
        """ms of each runner; the images are prepared before any clock runs."""
        chosen = to_input(images[np.arange(k * batch, (k + 1) * batch) % len(images)])
        return {names[i]: _call_ms(runners[names[i]], chosen, clock) for i in draw.permutation(len(names))}

    host: dict[str, list[float]] = {name: [] for name in names}
    device: dict[str, list[float | None]] = {name: [] for name in names}
    steady = _warm_up(one_round, warmup, clock)
    deadline = None if seconds is None else clock() + seconds * 1e9
    for k in progress.track(range(first, first + rounds), "rounds", total=rounds, unit="rounds"):
        for name, (on_host, on_device) in one_round(k).items():
            host[name].append(on_host)
            device[name].append(on_device)
        if deadline is not None and k - first + 1 >= _FEWEST and clock() >= deadline:
            break
    return {name: Timing((np.array(host[name]),), _known(device[name])) for name in names}, steady


def _known(times: Sequence[float | None]) -> tuple[NDArray[np.float64], ...] | None:
    known = [value for value in times if value is not None]
    return (np.array(known),) if len(known) == len(times) else None


def _joined(parts: Sequence[Timing]) -> Timing:
    """The sessions of one runner, one after the other."""
    devices = [part.device for part in parts if part.device is not None]
    return Timing(
        tuple(times for part in parts for times in part.host),
        tuple(times for device in devices for times in device) if len(devices) == len(parts) else None,
    )


def _call_ms(runner: Runner, images: NDArray[np.float32], clock: Clock) -> tuple[float, float | None]:
    """ms on the host's clock until the logits are in host memory; and on the device's, where the runner has one."""
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
            # Calls of a second never fill two windows: halves of what there is then decide.
            window = rounds // 2
            return _SLOW <= rounds < 2 * _WINDOW and all(_is_steady(times, window) for times in history.values())


def _is_steady(times: list[float], window: int) -> bool:
    before, now = float(np.median(times[-2 * window : -window])), float(np.median(times[-window:]))
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
