from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.timing.rounds import time_interleaved, time_sessions

IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
WARM = 20  # rounds of a warm-up whose times are steady: two windows


@pytest.fixture(autouse=True)
def _gc_is_as_before() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def _time(runners, clock, seed=0, **options):
    given = {"rounds": 30, "warmup": 1.0} | options
    return time_interleaved({one.name: one for one in runners}, IMAGES, seed=seed, clock=clock, **given)


def _sessions(runners, clock, seed=0, **options):
    given = {"rounds": 30, "warmup": 1.0, "sessions": 4} | options
    return time_sessions({one.name: one for one in runners}, IMAGES, seed=seed, clock=clock, **given)


def test_times_are_those_of_the_runners(fake, clock):
    times = _time([fake("a", 2.0), fake("b", lambda k: 1.0 + k / 1000)], clock)
    assert times["a"].tolist() == [2.0] * 30
    np.testing.assert_allclose(times["b"], [1.0 + (k + WARM) / 1000 for k in range(30)], rtol=1e-9)


def test_rounds_interleave_in_drawn_order_on_the_same_images(fake, clock):
    _time([fake(name) for name in "abc"], clock, batch=2)
    assert len(clock.calls) % 3 == 0
    rounds = [clock.calls[i : i + 3] for i in range(0, len(clock.calls), 3)]
    orders = ["".join(name for name, _, _ in calls) for calls in rounds]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) == 6
    assert all(len({(size, round(pixel)) for _, size, pixel in calls}) == 1 for calls in rounds)
    # 5 images in batches of 2 go round: rounds start at images 0, 2, 4, 1, 3, 0, ...
    assert [round(calls[0][2]) // 12 for calls in rounds[WARM : WARM + 6]] == [0, 2, 4, 1, 3, 0]


def test_order_depends_on_the_seed_only(fake, clock):
    orders = []
    for seed in (1, 1, 2):
        clock.calls.clear()
        _time([fake("a"), fake("b")], clock, seed=seed)
        orders.append([name for name, _, _ in clock.calls])
    assert orders[0] == orders[1] != orders[2]


def test_preparing_the_images_takes_no_measured_time(fake, clock):
    class Slow(np.ndarray):
        """Images that take a second to read, on the test's clock."""

        def __getitem__(self, index):
            clock.ns += 10**9
            return np.asarray(super().__getitem__(index))

    times = time_interleaved(
        {"a": fake("a", 2.0)}, IMAGES.view(Slow), rounds=10, warmup=100.0, seed=0, batch=2, clock=clock
    )
    assert clock.ns > 30 * 10**9
    assert times["a"].tolist() == [2.0] * 10


def test_warm_up_lasts_until_times_are_steady(fake, clock):
    times = _time([fake("a", lambda k: 1.0 + 50.0 * 0.8**k), fake("b")], clock, warmup=1e6)
    assert times["a"].max() < 1.01
    # Medians of 10 rounds, 10 rounds apart, differ by 5 % until 415 * 0.8**(k - 4.5) falls to 0.05 at k = 45.
    assert 43 <= len(clock.calls) / 2 - 30 <= 47


def test_warm_up_has_a_limit_and_says_so(fake, clock, notes):
    _time([fake("a", lambda k: 10.0 * 1.1**k)], clock, warmup=0.1, rounds=1, progress=notes)
    assert len(clock.calls) == 8 + 1  # 10 + 11 + ... reaches 100 ms in the eighth call
    assert notes.lines == ["times still drifted after 0.1 s of warm-up: early rounds may be slow"]


def test_steady_calls_too_slow_for_two_windows_count_as_warm(fake, clock, notes):
    _time([fake("a", 1000.0)], clock, warmup=4.0, rounds=1, progress=notes)
    assert len(clock.calls) == 4 + 1
    assert notes.lines == []


def test_every_session_opens_all_anew_in_an_order_and_then_in_its_reverse(fake, clock):
    runners = [fake(name) for name in "abc"]
    _sessions(runners, clock, sessions=8)
    orders = ["".join(clock.opened[i : i + 3]) for i in range(0, 24, 3)]
    assert len(clock.opened) == 24
    assert all(orders[k + 1] == orders[k][::-1] for k in range(0, 8, 2))
    assert len(set(orders[::2])) > 1
    assert [one.opened for one in runners] == [0, 0, 0]


def test_rounds_are_shared_out_among_sessions(fake, clock):
    measured = _sessions([fake("a", 2.0), fake("b", 1.0)], clock, rounds=30, sessions=4)
    assert [len(part) for part in measured.timings["a"].host] == [7, 8, 7, 8]
    assert measured.timings["a"].rounds == 30
    assert np.concatenate(measured.timings["b"].host).tolist() == [1.0] * 30
    assert measured.timings["a"].device is None
    assert measured.warm


def test_sessions_end_when_their_share_of_the_time_is_used_up(fake, clock):
    measured = _sessions([fake("a", 10.0)], clock, rounds=4000, sessions=4, seconds=0.8)
    assert [len(part) for part in measured.timings["a"].host] == [20] * 4
    measured = _sessions([fake("a", 10.0)], clock, rounds=4000, sessions=4, seconds=1e-9)
    assert [len(part) for part in measured.timings["a"].host] == [5] * 4  # a few all the same


def test_a_device_s_own_times_stand_beside_the_host_s(fake, clock):
    measured = _sessions([fake("a", 3.0, device=True), fake("b", 1.0)], clock, rounds=8, sessions=2)
    assert [part.tolist() for part in measured.timings["a"].device] == [[1.5] * 4] * 2
    assert measured.timings["b"].device is None


def test_a_failure_closes_everything_and_brings_garbage_collection_back(fake, clock):
    def fail(k: int) -> float:
        raise KeyboardInterrupt

    runners = [fake("a"), fake("b", fail)]
    with pytest.raises(KeyboardInterrupt):
        _sessions(runners, clock)
    assert [one.opened for one in runners] == [0, 0]


@pytest.mark.parametrize("options", [{"rounds": 0}, {"batch": 0}])
def test_needs_something_to_time(fake, clock, options):
    with pytest.raises(ConfigError, match=r"1 runners, 5 images, .* latency needs 1 or more of each"):
        _time([fake("a")], clock, **options)
    with pytest.raises(ConfigError, match=r"1 runners, 5 images, .* 4 sessions, .* latency needs 1 or more of each"):
        _sessions([fake("a")], clock, **options)
