from __future__ import annotations

import gc

import numpy as np
import pytest

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import Silent
from slimsight.deploy.settings.latency import LatencyConfig
from slimsight.deploy.timing.latency import LatencyRow, measure_latency
from slimsight.deploy.timing.statistics import PERCENTILES, Quantiles, Speedup

IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)


class Clock:
    """Time that passes only when a runner says so; every call is noted."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[tuple[str, int]] = []  # runner, batch

    def __call__(self) -> int:
        return self.ns


class Fake:
    """Costs what its ms say, in call k."""

    runtime, precision = "fake", "fp32"

    def __init__(self, name: str, clock: Clock, costs) -> None:
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
        self.clock.calls.append((self.name, len(images)))
        self.count += 1
        return np.zeros((len(images), 2), np.float32)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def _fakes(clock: Clock, **costs: float) -> dict[str, Fake]:
    return {name: Fake(name, clock, lambda k, cost=cost: cost) for name, cost in costs.items()}


def test_row_is_the_reports():
    clock = Clock()
    fakes = _fakes(clock, original=3.0, slim=1.5, dynamic=1.0)
    row = measure_latency(**fakes, images=IMAGES, threads=1, batch=2, rounds=20, clock=clock)
    assert [fake.opened for fake in fakes.values()] == [0, 0, 0]
    assert {size for _, size in clock.calls} == {2}
    assert row.to_dict() == {
        "runtime": "fake",
        "precision": "fp32",
        "threads": 1,
        "batch": 2,
        "original_ms": {"median": 3.0, "p90": 3.0, "p99": 3.0},
        "slim_ms": {"median": 1.5, "p90": 1.5, "p99": 1.5},
        "dynamic_ms": {"median": 1.0, "p90": 1.0, "p99": 1.0},
        "percentiles_ms": {
            "percent": list(PERCENTILES),
            "original": [3.0] * len(PERCENTILES),
            "slim": [1.5] * len(PERCENTILES),
            "dynamic": [1.0] * len(PERCENTILES),
        },
        "speedup": {"median": 2.0, "low": 2.0, "high": 2.0},
    }


def test_row_without_a_dynamic_model_has_no_such_column():
    quantiles = Quantiles(1.0, 1.0, 1.0)
    row = LatencyRow("r", "fp32", 1, 1, quantiles, quantiles, Speedup(1.0, 1.0, 1.0))
    assert {"dynamic_ms", "percentiles_ms"}.isdisjoint(row.to_dict())


def test_a_noisy_machine_is_noted():
    clock, notes = Clock(), Notes()
    fakes = _fakes(clock, original=3.0)
    fakes["slim"] = Fake("slim", clock, lambda k: 2.0 if k < 300 else 2.5)  # 30 rounds a session
    measure_latency(**fakes, images=IMAGES, threads=1, rounds=100, sessions=20, clock=clock, progress=notes)
    (line,) = [line for line in notes.lines if line.startswith("noisy machine: ")]
    assert "the speed-up changed by -20.0 % between the halves, 5 % allowed" in line
    assert line.endswith("; close other programs and measure again")


def test_unlike_runtimes_are_not_compared():
    clock = Clock()
    fakes = _fakes(clock, original=3.0, slim=1.5)
    fakes["slim"].precision = "fp16"
    with pytest.raises(ConfigError, match="cannot compare fake fp16 and fake fp32: time models in the same runtime"):
        measure_latency(**fakes, images=IMAGES, threads=1)
    assert [fake.opened for fake in fakes.values()] == [0, 0]


def test_config():
    config = LatencyConfig()
    assert (config.threads, config.batch, config.rounds, config.sessions, config.warmup_seconds) == (1, 1, 200, 10, 5.0)
    with pytest.raises(ValueError, match="greater than or equal to 20"):
        LatencyConfig(rounds=5)
