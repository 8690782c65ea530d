"""What times of calls say: quantiles, a speed-up with its interval, and whether the machine was quiet enough to tell.

Opening a model anew moves its time by up to a percent (where its weights happen to lie in memory, who came first), and
it stays there until it is closed: rounds of one opening cannot see that. So a measurement has several *sessions*, each
with its own openings, and sessions are what is resampled (clusters at the highest level: Davison and Hinkley 1997, 3.8;
levels of repetition: Kalibera and Jones 2013). Noise correlated within a session cannot narrow such an interval.

Sessions come in pairs, an order of opening and its reverse, which cancels most of what the order does: where there are
enough of them, pairs are resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t, trim_mean

Array: TypeAlias = NDArray[np.float64]
Sessions: TypeAlias = Array | Sequence[Array]
"""ms of each call: (rounds,) of one session, or that of each session."""

ENOUGH = 5
"""So many pairs of sessions, or else sessions, are resampled at least; with fewer it is blocks of rounds."""

WIDE = 0.06
"""Relative width (high / low - 1) of a speed-up's interval above which a row is noisy."""

DRIFT = 0.05
"""Relative change of a speed-up from the first half of a measurement to the second above which a row is noisy."""

UNSTEADY = 0.25
"""The same for the time itself, where no ratio cancels what slows everything: its interval's width, and its drift."""

PERCENTILES = (0.0, 1.0, *(5.0 * step for step in range(1, 20)), 99.0, 100.0)
"""Percent of the calls at which a distribution of times is kept: enough to draw it."""

_CHUNK = 100  # resamples drawn at once: bounds memory at _CHUNK * rounds
_TRIM = 0.2  # of the sessions' log ratios, on either side: one session beside a busy neighbour moves nothing


@dataclass(frozen=True)
class Quantiles:
    """Of the times of single calls, in ms."""

    median: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Speedup:
    """Time of the baseline over time of the model (above 1: faster), with its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Of the interval, relative: high / low - 1."""
        return self.high / self.low - 1


def to_sessions(times: Sessions) -> tuple[Array, ...]:
    """The sessions of ``times``, one where it is a plain array."""
    return (times,) if isinstance(times, np.ndarray) and times.ndim == 1 else tuple(times)


def to_quantiles(times: Sessions) -> Quantiles:
    """Median, p90 and p99 of all times in ms."""
    median, p90, p99 = np.quantile(np.concatenate(to_sessions(times)), (0.5, 0.9, 0.99))
    return Quantiles(float(median), float(p90), float(p99))


def to_percentiles(times: Sessions) -> list[float]:
    """Times in ms at ``PERCENTILES`` of the calls, to five digits."""
    found = np.quantile(np.concatenate(to_sessions(times)), np.array(PERCENTILES) / 100)
    return [float(f"{value:.5g}") for value in found]


def to_speedup(original: Sessions, slim: Sessions, *, seed: int, resamples: int = 2000) -> Speedup:
    """How many times as fast ``slim`` is: ratio of medians original / slim, with its 95 % bootstrap interval.

    From ``ENOUGH`` sessions on: each session gives the ratio of its medians (both models felt the same disturbances);
    the estimate is the 20 % trimmed mean of their logarithms, of pairs of sessions from ``2 * ENOUGH`` on, and pairs
    (or sessions) are resampled. Below: the ratio of the medians of all rounds, and blocks of consecutive rounds are
    resampled, the same for both models; such an interval is blind to what opening anew would change.
    The percentiles are widened for the small number of what is resampled (expanded percentile interval, Hesterberg
    2015, 5.3), without which an interval of ten sessions would cover nine times in ten.

    Args:
        original, slim: ms; entry k of a session is the same round.
        seed: draws the resamples.
        resamples: how many.
    """
    before, after = to_sessions(original), to_sessions(slim)
    assert [len(x) for x in before] == [len(x) for x in after]
    draw = np.random.default_rng(seed)
    if len(before) >= ENOUGH:
        logs = [float(np.log(np.median(x) / np.median(y))) for x, y in zip(before, after, strict=True)]
        centre, spread, units = _of_sessions(_paired(logs), draw, resamples)
    else:
        centre, spread, units = _of_blocks(np.concatenate(before), np.concatenate(after), draw, resamples)
    low, high = np.quantile(spread, _expanded(units))
    # Of few or coarse values the centre may lie outside its resamples.
    return Speedup(float(np.exp(centre)), float(np.exp(min(low, centre))), float(np.exp(max(high, centre))))


def to_interval(times: Sessions, *, seed: int) -> tuple[float, float]:
    """95 % interval of a median time in ms, by the same resampling."""
    parts = to_sessions(times)
    found = to_speedup(parts, tuple(np.ones_like(part) for part in parts), seed=seed)
    return found.low, found.high


def _paired(logs: Sequence[float]) -> Array:
    """The means of sessions 0 and 1, 2 and 3, ... where they are enough (a last one alone stands for itself)."""
    if len(logs) < 2 * ENOUGH:
        return np.array(logs)
    return np.array([np.mean(logs[start : start + 2]) for start in range(0, len(logs), 2)])


def _of_sessions(logs: Array, draw: np.random.Generator, resamples: int) -> tuple[float, Array, int]:
    picked = logs[draw.integers(len(logs), size=(resamples, len(logs)))]
    return float(trim_mean(logs, _TRIM)), np.asarray(trim_mean(picked, _TRIM, axis=1)), len(logs)


def _of_blocks(before: Array, after: Array, draw: np.random.Generator, resamples: int) -> tuple[float, Array, int]:
    """Circular blocks (Politis and Romano 1992) of about 2 n^(1/3) rounds."""
    n = len(before)
    length = min(n, max(1, round(2 * n ** (1 / 3))))
    blocks = -(-n // length)
    found = []
    for start in range(0, resamples, _CHUNK):
        starts = draw.integers(n, size=(min(_CHUNK, resamples - start), blocks, 1))
        rounds = ((starts + np.arange(length)) % n).reshape(len(starts), -1)[:, :n]
        found.append(np.log(np.median(before[rounds], axis=1) / np.median(after[rounds], axis=1)))
    return float(np.log(np.median(before) / np.median(after))), np.concatenate(found), blocks


def _expanded(units: int) -> tuple[float, float]:
    """The percentiles that cover 95 % when a mean of ``units`` normal values is resampled."""
    if units < 2:
        return 0.0, 1.0
    tail = float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf(0.975, units - 1)))
    return tail, 1 - tail


def drift_of(original: Sessions, slim: Sessions | None = None) -> float:
    """Relative change from the first half of a measurement to the second: of the speed-up, or of the time alone."""
    before = to_sessions(original)
    after = to_sessions(slim) if slim is not None else tuple(np.ones_like(part) for part in before)
    if len(before) == 1:
        half = len(before[0]) // 2
        before, after = ((parts[0][:half], parts[0][half:]) for parts in (before, after))
    if min(len(part) for part in before) == 0:
        return 0.0
    logs = [float(np.log(np.median(x) / np.median(y))) for x, y in zip(before, after, strict=True)]
    half = len(logs) // 2
    return float(np.expm1(trim_mean(logs[half:], _TRIM) - trim_mean(logs[:half], _TRIM)))


def noise_of(original: Sessions, slim: Sessions, speedup: Speedup) -> tuple[str, ...]:
    """Why a speed-up is too noisy to be relied on; empty where it is not (``WIDE``, ``DRIFT``)."""
    reasons = []
    if speedup.width > WIDE:
        reasons.append(f"the interval of the speed-up is {100 * speedup.width:.1f} % wide, {100 * WIDE:g} % allowed")
    if abs(drift := drift_of(original, slim)) > DRIFT:
        reasons.append(f"the speed-up changed by {100 * drift:+.1f} % between the halves, {100 * DRIFT:g} % allowed")
    return tuple(reasons)


def unsteadiness_of(times: Sessions, interval: tuple[float, float]) -> tuple[str, ...]:
    """Why a time alone is too noisy to be relied on; empty where it is not (``UNSTEADY``)."""
    reasons = []
    if (width := interval[1] / interval[0] - 1) > UNSTEADY:
        reasons.append(f"the interval of the median is {100 * width:.0f} % wide, {100 * UNSTEADY:g} % allowed")
    if abs(drift := drift_of(times)) > UNSTEADY:
        reasons.append(f"the median changed by {100 * drift:+.0f} % between the halves, {100 * UNSTEADY:g} % allowed")
    return tuple(reasons)
