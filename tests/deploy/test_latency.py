from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from compress.errors import ConfigError
from compress.progress import Silent
from deploy.latency import (
    LatencyConfig,
    LatencyRow,
    Quantiles,
    Speedup,
    measure_latency,
    noise_note,
    time_interleaved,
    to_quantiles,
    to_speedup,
)

IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)


class Clock:
    """Time that passes only when a runner says so; every call is noted."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[tuple[str, int, float]] = []  # runner, batch, first pixel

    def __call__(self) -> int:
        return self.ns


class Fake:
    """Costs what its sequence of ms says, the last one forever."""

    runtime, precision = "fake", "fp32"

    def __init__(self, name: str, clock: Clock, costs: Callable[[int], float]) -> None:
        self.name, self.clock, self.costs = name, clock, costs
        self.count = 0
        self.opened = 0

    def __enter__(self) -> Fake:
        self.opened += 1
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.opened -= 1

    def run(self, images):
        assert not gc.isenabled()
        self.clock.ns += round(self.costs(self.count) * 1e6)
        self.clock.calls.append((self.name, len(images), float(images[0, 0, 0, 0]) * 255))
        self.count += 1
        return np.zeros((len(images), 2), np.float32)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _gc_is_as_before() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def _time(costs: dict[str, Callable[[int], float]], seed: int = 0, **options):
    clock = Clock()
    runners = {name: Fake(name, clock, cost) for name, cost in costs.items()}
    given = {"rounds": 30, "warmup": 1.0} | options
    return time_interleaved(runners, IMAGES, seed=seed, clock=clock, **given), clock


def test_times_are_those_of_the_runners():
    times, _ = _time({"a": lambda k: 2.0, "b": lambda k: 1.0 + k / 1000})
    assert times["a"].tolist() == [2.0] * 30
    warmup = 20  # two windows: steady at once
    np.testing.assert_allclose(times["b"], [1.0 + (k + warmup) / 1000 for k in range(30)], rtol=1e-9)


def test_rounds_interleave_in_drawn_order_on_the_same_images():
    _, clock = _time({name: lambda k: 1.0 for name in "abc"}, batch=2)
    assert len(clock.calls) % 3 == 0
    rounds = [clock.calls[i : i + 3] for i in range(0, len(clock.calls), 3)]
    orders = ["".join(name for name, _, _ in calls) for calls in rounds]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) == 6
    assert all(len({(size, round(pixel)) for _, size, pixel in calls}) == 1 for calls in rounds)
    # 5 images in batches of 2 go round: rounds start at images 0, 2, 4, 1, 3, 0, ...
    assert [round(calls[0][2]) // 12 for calls in rounds[20:26]] == [0, 2, 4, 1, 3, 0]


def test_order_depends_on_the_seed_only():
    orders = [
        [name for name, _, _ in _time({"a": lambda k: 1.0, "b": lambda k: 1.0}, seed=seed)[1].calls]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_warm_up_lasts_until_times_are_steady():
    times, clock = _time({"a": lambda k: 1.0 + 50.0 * 0.8**k, "b": lambda k: 1.0}, warmup=1e6)
    assert times["a"].max() < 1.01
    # Medians of 10 rounds, 10 rounds apart, differ by 5 % until 415 * 0.8**(k - 4.5) falls to 0.05 at k = 45.
    assert 43 <= len(clock.calls) / 2 - 30 <= 47


def test_warm_up_has_a_limit_and_says_so():
    notes = Notes()
    _, clock = _time({"a": lambda k: 10.0 * 1.1**k}, warmup=0.1, rounds=1, progress=notes)
    assert len(clock.calls) == 8 + 1  # 10 + 11 + ... reaches 100 ms in the eighth call
    assert notes.lines == ["times still drifted after 0.1 s of warm-up: early rounds may be slow"]


def test_garbage_collection_comes_back_after_a_failure():
    def fail(k: int) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _time({"a": fail})


@pytest.mark.parametrize("options", [{"rounds": 0}, {"batch": 0}])
def test_needs_something_to_time(options):
    with pytest.raises(ConfigError, match=r"1 runners, 5 images, .* latency needs 1 or more of each"):
        _time({"a": lambda k: 1.0}, **options)


def test_quantiles():
    quantiles = to_quantiles(np.arange(1.0, 102.0))
    assert quantiles == Quantiles(median=51.0, p90=91.0, p99=100.0)
    assert quantiles.dispersion == pytest.approx(91 / 51)


def test_interval_holds_the_ratio_and_depends_on_the_seed_only():
    draw = np.random.default_rng(3)
    slim = 1.0 + 0.1 * draw.standard_exponential(400)
    original = 2.0 * (1.0 + 0.1 * draw.standard_exponential(400))
    speedup = to_speedup(original, slim, seed=7)
    assert speedup.low < 2.0 < speedup.high
    assert speedup.low < speedup.median < speedup.high
    assert speedup.high - speedup.low < 0.1
    assert speedup == to_speedup(original, slim, seed=7)
    assert speedup != to_speedup(original, slim, seed=8)


def test_interval_covers_as_often_as_it_says():
    draw = np.random.default_rng(11)
    covered = 0
    for trial in range(100):
        original, slim = 3.0 * draw.lognormal(0, 0.2, 100), draw.lognormal(0, 0.2, 100)
        interval = to_speedup(original, slim, seed=trial, resamples=300)
        covered += interval.low <= 3.0 <= interval.high
    assert 88 <= covered <= 100


def test_rounds_are_resampled_in_pairs():
    # Both models feel the same disturbance: paired rounds cancel it, independent ones would not.
    disturbance = np.random.default_rng(5).lognormal(0, 1.0, 200)
    speedup = to_speedup(2 * disturbance, disturbance, seed=0)
    assert (speedup.median, speedup.low, speedup.high) == (2.0, 2.0, 2.0)


def test_constant_times_give_a_point():
    assert to_speedup(np.full(20, 3.0), np.full(20, 2.0), seed=0) == Speedup(1.5, 1.5, 1.5)


def test_noise_is_noted():
    quiet = np.full(100, 2.0)
    noisy = np.where(np.arange(100) % 5 == 0, 3.0, 1.0)
    assert noise_note({"original": quiet, "slim": quiet}) is None
    assert noise_note({"original": quiet, "slim": noisy}) == (
        "noisy machine: p90 is 3.00 times the median for slim; close other programs and measure again"
    )


def _fakes(clock: Clock, **costs: float) -> dict[str, Fake]:
    return {name: Fake(name, clock, lambda k, cost=cost: cost) for name, cost in costs.items()}


def test_row_is_the_reports():
    clock = Clock()
    fakes = _fakes(clock, original=3.0, slim=1.5, dynamic=1.0)
    row = measure_latency(**fakes, images=IMAGES, threads=1, batch=2, rounds=20, clock=clock)
    assert [fake.opened for fake in fakes.values()] == [0, 0, 0]
    assert {size for _, size, _ in clock.calls} == {2}
    assert row.to_dict() == {
        "runtime": "fake",
        "precision": "fp32",
        "threads": 1,
        "batch": 2,
        "original_ms": {"median": 3.0, "p90": 3.0, "p99": 3.0},
        "slim_ms": {"median": 1.5, "p90": 1.5, "p99": 1.5},
        "dynamic_ms": {"median": 1.0, "p90": 1.0, "p99": 1.0},
        "speedup": {"median": 2.0, "low": 2.0, "high": 2.0},
    }


def test_row_without_a_dynamic_model_has_no_such_column():
    quantiles = Quantiles(1.0, 1.0, 1.0)
    row = LatencyRow("r", "fp32", 1, 1, quantiles, quantiles, Speedup(1.0, 1.0, 1.0))
    assert "dynamic_ms" not in row.to_dict()


def test_unlike_runtimes_are_not_compared():
    clock = Clock()
    fakes = _fakes(clock, original=3.0, slim=1.5)
    fakes["slim"].precision = "fp16"
    with pytest.raises(ConfigError, match="cannot compare fake fp16 and fake fp32: time models in the same runtime"):
        measure_latency(**fakes, images=IMAGES, threads=1)
    assert [fake.opened for fake in fakes.values()] == [0, 0]


def test_config():
    config = LatencyConfig()
    assert (config.threads, config.batch, config.rounds, config.warmup_seconds) == (1, 1, 200, 5.0)
    with pytest.raises(ValueError, match="greater than or equal to 20"):
        LatencyConfig(rounds=5)
