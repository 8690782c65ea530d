"""Statistics of latency: quantiles, speed-ups with bootstrap intervals, drift, and whether a measurement is too noisy.

Opening a model again changes its time by up to a percent (addresses of its weights, order of opening), and the change
lasts until it is closed: rounds of one opening cannot show it. So a measurement has several *sessions*, each with its
own openings, and sessions are resampled (clusters at the highest level: Davison and Hinkley 1997, 3.8; levels of
repetition: Kalibera and Jones 2013). Noise correlated within a session cannot narrow such an interval.

Sessions come in pairs, an order of opening and its reverse, which cancels most of the effect of the order: with enough
of them, pairs are resampled.
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
"""ms of each call: an array (rounds,) of one session, or one for each session."""

MIN_RESAMPLED = 5
"""Minimum number of session pairs, or of sessions, for a bootstrap interval over them."""

MAX_WIDTH = 0.06
"""Relative width (high / low - 1) of a speed-up's interval above which a row is noisy."""

MAX_DRIFT = 0.05
"""Relative change of a speed-up from the first half of a measurement to the second above which a row is noisy."""

MAX_VARIATION = 0.25
"""Both limits for a time without a ratio, in which a slow machine does not cancel: its interval's width and drift."""

PERCENTILES = (0.0, 1.0, *(5.0 * step for step in range(1, 20)), 99.0, 100.0)
"""The percentiles of the calls' times that are stored, to draw their distribution."""

_RESAMPLES_AT_ONCE = 100  # bounds memory: as many * rounds values
_TRIMMED_SHARE = 0.2  # of the sessions' log ratios, on either side: one disturbed session changes little


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the times of single calls, in ms."""

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
        """Relative width of the interval: high / low - 1."""
        return self.high / self.low - 1


def to_sessions(times: Sessions) -> tuple[Array, ...]:
    """``times`` as a tuple of sessions; a plain array is one session."""
    return (times,) if isinstance(times, np.ndarray) and times.ndim == 1 else tuple(times)


def to_quantiles(times: Sessions) -> Quantiles:
    """Median, p90 and p99 of all times in ms."""
    median, p90, p99 = np.quantile(np.concatenate(to_sessions(times)), (0.5, 0.9, 0.99))
    return Quantiles(float(median), float(p90), float(p99))


def to_percentiles(times: Sessions) -> list[float]:
    """Times in ms at ``PERCENTILES``, to five digits."""
    values = np.quantile(np.concatenate(to_sessions(times)), np.array(PERCENTILES) / 100)
    return [float(f"{value:.5g}") for value in values]


def to_speedup(original: Sessions, slim: Sessions, *, seed: int, resamples: int = 2000) -> Speedup:
    """The speed-up of ``slim``: ratio of medians original / slim, with its 95 % bootstrap interval.

    From ``MIN_RESAMPLED`` sessions on: each session gives the ratio of its medians (both models had the same
    disturbances); the estimate is the 20 % trimmed mean of their logarithms, of pairs of sessions from
    ``2 * MIN_RESAMPLED`` on, and pairs (or sessions) are resampled. Below: the ratio of the medians of all rounds, and
    blocks of consecutive rounds are resampled, the same for both models; such an interval does not include the
    variation between openings.
    The percentiles are widened for few resampled units (expanded percentile interval, Hesterberg 2015, 5.3); else an
    interval of ten sessions would cover 90 % instead of 95 %.

    Args:
        original, slim: ms; entry k of a session is the same round.
        seed: of the resamples.
        resamples: number of resamples.
    """
    before, after = to_sessions(original), to_sessions(slim)
    assert [len(x) for x in before] == [len(x) for x in after]
    draw = np.random.default_rng(seed)
    if len(before) >= MIN_RESAMPLED:
        logs = [float(np.log(np.median(x) / np.median(y))) for x, y in zip(before, after, strict=True)]
        centre, spread, units = _resample_sessions(_pair_means(logs), draw, resamples)
    else:
        centre, spread, units = _resample_blocks(np.concatenate(before), np.concatenate(after), draw, resamples)
    low, high = np.quantile(spread, _expanded_percentiles(units))
    # With few or coarse values the centre may lie outside its resamples.
    return Speedup(float(np.exp(centre)), float(np.exp(min(low, centre))), float(np.exp(max(high, centre))))


def to_interval(times: Sessions, *, seed: int) -> tuple[float, float]:
    """95 % interval of a median time in ms, by the resampling of ``to_speedup``."""
    parts = to_sessions(times)
    ratio = to_speedup(parts, tuple(np.ones_like(part) for part in parts), seed=seed)
    return ratio.low, ratio.high


def _pair_means(logs: Sequence[float]) -> Array:
    """Means of sessions 0 and 1, 2 and 3, ...; with fewer than ``2 * MIN_RESAMPLED``, the sessions themselves."""
    if len(logs) < 2 * MIN_RESAMPLED:
        return np.array(logs)
    return np.array([np.mean(logs[start : start + 2]) for start in range(0, len(logs), 2)])


def _resample_sessions(logs: Array, draw: np.random.Generator, resamples: int) -> tuple[float, Array, int]:
    picked = logs[draw.integers(len(logs), size=(resamples, len(logs)))]
    return float(trim_mean(logs, _TRIMMED_SHARE)), np.asarray(trim_mean(picked, _TRIMMED_SHARE, axis=1)), len(logs)


def _resample_blocks(
    before: Array, after: Array, draw: np.random.Generator, resamples: int
) -> tuple[float, Array, int]:
    """Bootstrap with circular blocks (Politis and Romano 1992) of about 2 n^(1/3) rounds."""
    n = len(before)
    length = min(n, max(1, round(2 * n ** (1 / 3))))
    blocks = -(-n // length)
    logs = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        starts = draw.integers(n, size=(min(_RESAMPLES_AT_ONCE, resamples - start), blocks, 1))
        rounds = ((starts + np.arange(length)) % n).reshape(len(starts), -1)[:, :n]
        logs.append(np.log(np.median(before[rounds], axis=1) / np.median(after[rounds], axis=1)))
    return float(np.log(np.median(before) / np.median(after))), np.concatenate(logs), blocks


def _expanded_percentiles(units: int) -> tuple[float, float]:
    """The percentiles (0..1) that cover 95 % when a mean of ``units`` normal values is resampled."""
    if units < 2:
        return 0.0, 1.0
    tail = float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf(0.975, units - 1)))
    return tail, 1 - tail


def relative_drift(original: Sessions, slim: Sessions | None = None) -> float:
    """Relative change from first half to second half of a measurement, of the speed-up (without ``slim``: the time)."""
    before = to_sessions(original)
    after = to_sessions(slim) if slim is not None else tuple(np.ones_like(part) for part in before)
    if len(before) == 1:
        half = len(before[0]) // 2
        before, after = ((parts[0][:half], parts[0][half:]) for parts in (before, after))
    if min(len(part) for part in before) == 0:
        return 0.0
    logs = [float(np.log(np.median(x) / np.median(y))) for x, y in zip(before, after, strict=True)]
    half = len(logs) // 2
    return float(np.expm1(trim_mean(logs[half:], _TRIMMED_SHARE) - trim_mean(logs[:half], _TRIMMED_SHARE)))


def speedup_noise(original: Sessions, slim: Sessions, speedup: Speedup) -> tuple[str, ...]:
    """Why a speed-up is too noisy to rely on (``MAX_WIDTH``, ``MAX_DRIFT``); empty where it is not."""
    drift = relative_drift(original, slim)
    return _noise_reasons("speed-up", speedup.width, drift, MAX_WIDTH, MAX_DRIFT, digits=1)


def time_noise(times: Sessions, interval: tuple[float, float]) -> tuple[str, ...]:
    """Why a median time, without a baseline, is too noisy to rely on (``MAX_VARIATION``); empty where it is not."""
    width, drift = interval[1] / interval[0] - 1, relative_drift(times)
    return _noise_reasons("median", width, drift, MAX_VARIATION, MAX_VARIATION, digits=0)


def _noise_reasons(
    what: str, width: float, drift: float, max_width: float, max_drift: float, *, digits: int
) -> tuple[str, ...]:
    reasons = []
    if width > max_width:
        reasons.append(f"the interval of the {what} is {100 * width:.{digits}f} % wide, {100 * max_width:g} % allowed")
    if abs(drift) > max_drift:
        change = f"{100 * drift:+.{digits}f} %"
        reasons.append(f"the {what} changed by {change} between the halves, {100 * max_drift:g} % allowed")
    return tuple(reasons)
