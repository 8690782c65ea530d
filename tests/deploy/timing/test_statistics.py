"""Intervals on noise whose truth is known: how often they hold it is the test."""

from __future__ import annotations

import numpy as np
import pytest

from slimsight.deploy.timing.statistics import (
    Quantiles,
    Speedup,
    relative_drift,
    speedup_noise,
    time_noise,
    to_interval,
    to_quantiles,
    to_speedup,
)

TRIALS = 150


def _correlated(draw: np.random.Generator, count: int, rho: float, scale: float) -> np.ndarray:
    """Noise that remembers: AR(1) of a given correlation and standard deviation."""
    values = draw.normal(0, scale * np.sqrt(1 - rho**2), count)
    values[0] = draw.normal(0, scale)
    for k in range(1, count):
        values[k] += rho * values[k - 1]
    return values


def _measured(
    draw: np.random.Generator,
    truth: float,
    *,
    sessions: int,
    opened_last: float = 0.0,
    opening: float = 0.004,
    rounds: int = 40,
):
    """What this machine's noise looks like: per opening, per order of opening, correlated, with slow outliers."""
    before, after = [], []
    for k in range(sessions):
        order = opened_last * (1 if k % 2 else -1)
        both = draw.normal(0, 0.1) + _correlated(draw, rounds, 0.9, 0.05)
        slow = np.where(draw.random(rounds) < 0.1, 1.5, 1.0)
        own = [draw.normal(0, opening) + _correlated(draw, rounds, 0.8, 0.02) for _ in range(2)]
        before.append(truth * slow * np.exp(both + own[0] + order))
        after.append(slow * np.exp(both + own[1] - order))
    return before, after


def _coverage(truth: float, resamples: int = 300, **options) -> tuple[float, float]:
    """Share of the intervals that hold the truth, and their median width."""
    draw = np.random.default_rng(17)
    found = [to_speedup(*_measured(draw, truth, **options), seed=trial, resamples=resamples) for trial in range(TRIALS)]
    held = np.mean([one.low <= truth <= one.high for one in found])
    return float(held), float(np.median([one.width for one in found]))


@pytest.mark.parametrize("sessions", [5, 10, 20])
def test_intervals_over_sessions_cover_what_they_say(sessions):
    held, _ = _coverage(2.0, sessions=sessions)
    assert 0.91 <= held <= 1.0


def test_the_order_of_opening_cancels_in_pairs():
    held, width = _coverage(1.0, sessions=20, opened_last=0.01)
    _, without = _coverage(1.0, sessions=20, opened_last=0.0)
    assert held >= 0.91
    assert width < 1.05 * without


def test_rounds_of_one_opening_alone_cover_too_little():
    draw = np.random.default_rng(3)
    held = 0
    for trial in range(TRIALS):
        before, after = _measured(draw, 1.0, sessions=1, rounds=400, opening=0.012)
        found = to_speedup(before, after, seed=trial, resamples=300)
        held += found.low <= 1 <= found.high
    assert held / TRIALS < 0.7
    held, _ = _coverage(1.0, sessions=10, opening=0.012)
    assert held >= 0.91


def test_blocks_see_correlation_that_single_rounds_do_not():
    draw = np.random.default_rng(5)
    in_blocks = alone = 0
    for trial in range(TRIALS):
        before, after = (np.exp(_correlated(draw, 400, 0.8, 0.05)) for _ in range(2))
        found = to_speedup(before, after, seed=trial, resamples=300)
        in_blocks += found.low <= 1 <= found.high
        picked = draw.integers(400, size=(300, 400))
        plain = np.quantile(np.median(before[picked], axis=1) / np.median(after[picked], axis=1), (0.025, 0.975))
        alone += plain[0] <= 1 <= plain[1]
    assert in_blocks / TRIALS > 0.88
    assert alone / TRIALS < 0.75


def test_five_percent_are_found_in_noise():
    draw = np.random.default_rng(8)
    found = [to_speedup(*_measured(draw, 1 / 1.05, sessions=10), seed=trial, resamples=300) for trial in range(20)]
    assert sum(one.high < 1 for one in found) >= 19


def test_rounds_are_resampled_in_pairs():
    # Both models feel the same disturbance: paired rounds cancel it, independent ones would not.
    disturbance = np.random.default_rng(5).lognormal(0, 1.0, 200)
    for times in (disturbance, disturbance.reshape(10, 20)):
        speedup = to_speedup(2 * times, times, seed=0)
        np.testing.assert_allclose((speedup.median, speedup.low, speedup.high), 2.0, rtol=1e-12)


def test_one_bad_session_moves_nothing():
    before, after = np.full((20, 30), 2.0), np.full((20, 30), 1.0)
    after[7] *= 3
    speedup = to_speedup(before, after, seed=0)
    assert speedup.median == pytest.approx(2.0)


def test_constant_times_give_a_point_and_the_seed_decides_the_rest():
    speedup = to_speedup(np.full(20, 3.0), np.full(20, 2.0), seed=0)
    np.testing.assert_allclose((speedup.median, speedup.low, speedup.high), 1.5, rtol=1e-12)
    before, after = _measured(np.random.default_rng(0), 1.0, sessions=20)
    assert to_speedup(before, after, seed=7) == to_speedup(before, after, seed=7) != to_speedup(before, after, seed=8)


def test_quantiles_are_of_all_sessions():
    values = np.arange(1.0, 102.0)
    assert to_quantiles(values) == Quantiles(median=51.0, p90=91.0, p99=100.0)
    assert to_quantiles([values[:40], values[40:]]) == to_quantiles(values)


def test_a_median_has_an_interval_too():
    draw = np.random.default_rng(2)
    sessions = [draw.lognormal(0, 0.1, 40) for _ in range(10)]
    low, high = to_interval(sessions, seed=0)
    assert low < 1.0 < high < 1.2 * low


def test_drift_is_the_change_between_the_halves():
    first, second = [np.full(5, 2.0)] * 4, [np.full(5, 2.2)] * 4
    assert relative_drift(first + second) == pytest.approx(0.1)
    assert relative_drift(first + second, first + second) == pytest.approx(0.0)
    assert relative_drift(first + second, first + first) == pytest.approx(0.1)
    assert relative_drift(np.array([1.0, 1.0, 1.5, 1.5])) == pytest.approx(0.5)
    assert relative_drift(np.array([1.0])) == 0.0


def test_a_wide_interval_or_a_drift_is_noise():
    steady = [np.full(5, 2.0)] * 8
    assert speedup_noise(steady, steady, Speedup(1.0, 0.98, 1.03)) == ()
    assert speedup_noise(steady, steady, Speedup(1.0, 0.96, 1.04)) == (
        "the interval of the speed-up is 8.3 % wide, 6 % allowed",
    )
    drifted = [np.full(5, 2.0)] * 4 + [np.full(5, 1.8)] * 4
    assert speedup_noise(steady, drifted, Speedup(1.0, 0.99, 1.01)) == (
        "the speed-up changed by +11.1 % between the halves, 5 % allowed",
    )


def test_a_time_alone_may_be_unsteady():
    steady, slower = [np.full(5, 2.0)] * 4, [np.full(5, 3.0)] * 4
    assert time_noise(steady + steady, (1.9, 2.1)) == ()
    assert time_noise(steady + slower, (2.0, 3.0)) == (
        "the interval of the median is 50 % wide, 25 % allowed",
        "the median changed by +50 % between the halves, 25 % allowed",
    )
