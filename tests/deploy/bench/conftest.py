"""Clocks and runners without time of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from slimsight.compress.progress import Silent

Cost = Callable[[int], float]


class Clock:
    """Time that passes only when a runner says so; every call is noted."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[tuple[str, int, float]] = []  # runner, batch, first pixel
        self.opened: list[str] = []

    def __call__(self) -> int:
        return self.ns


class Fake:
    """Costs what its sequence of ms says; ``device_ms`` is half of it where it has a device."""

    precision = "fp32"

    def __init__(self, name: str, clock: Clock, costs: Cost, runtime: str = "fake", *, device: bool = False) -> None:
        self.name, self.clock, self.costs, self.runtime = name, clock, costs, runtime
        self.device = device
        self.device_ms: float | None = None
        self.count = 0
        self.opened = 0

    def __enter__(self) -> Fake:
        self.opened += 1
        self.clock.opened.append(self.name)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.opened -= 1

    def run(self, images):
        assert not gc.isenabled()
        cost = self.costs(self.count)
        self.clock.ns += round(cost * 1e6)
        self.device_ms = cost / 2 if self.device else None
        self.clock.calls.append((self.name, len(images), float(images[0, 0, 0, 0]) * 255))
        self.count += 1
        return np.zeros((len(images), 2), np.float32)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def fake(clock: Clock) -> Callable[..., Fake]:
    """``fake("a", cost)``: a runner on the test's clock; ``cost`` in ms, or by the number of the call."""

    def make(name: str, cost: float | Cost = 1.0, **options) -> Fake:
        return Fake(name, clock, cost if callable(cost) else lambda _: cost, **options)

    return make
