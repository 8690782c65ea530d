"""Times, with a model that sleeps: what it takes is known."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.testing import assert_latency


class Sleeps(nn.Module):
    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.ms / 1e3)
        return images * self.scale


class Two(nn.Module):
    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.first, self.second = Sleeps(first), Sleeps(second)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(images)).mean((2, 3))
        return result


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This suite itself may run in workers."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def test_a_time_and_its_failure() -> None:
    model = Two(0.5, 5).train()  # a busy machine adds a millisecond to either
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a busy machine is not this test's business
        found = assert_latency(model, "3x4x4", max="1 s", rounds=10, seconds=1)
    assert 5.5 <= found < 1000
    assert all(module.training for module in model.modules())
    with pytest.raises(AssertionError) as failed:
        assert_latency(model, (2, 3, 4, 4), max="500us", rounds=10, seconds=1)
    first, second, *rest = str(failed.value).splitlines()
    assert first.startswith("latency: ")
    assert " ms, at most 0.500 ms allowed: " in first
    assert second.startswith("median of ")
    assert " calls in 10 sessions, batch 2, 1 thread; 95 % interval " in second
    layers = rest[rest.index("layers that take longest (each on its own clock):") + 1 :]
    assert [line.split()[0] for line in layers] == ["second", "first"]
    assert float(layers[0].split()[-2]) > 60


def test_a_share_of_a_baseline() -> None:
    fast, slow = Sleeps(0.5), Sleeps(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_latency(fast, "3x4x4", max="60%", against=slow, rounds=10, seconds=1)
    with pytest.raises(
        AssertionError, match=r"at most \d.*\(60.0 % of \d+.*ms\) allowed.*\n.*\n.*x as fast as against"
    ):
        assert_latency(slow, "3x4x4", max=0.6, against=fast, rounds=10, seconds=1)


def test_a_pass_on_a_noisy_machine_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimsight.deploy.testing.latency.time_noise", lambda times, interval: ("a neighbour", "drift"))
    with pytest.warns(UserWarning, match="a neighbour; drift: measured on a noisy machine") as caught:
        assert_latency(Sleeps(0), "3x4x4", max="1 s", rounds=10, seconds=1)
    assert caught[0].filename == __file__, "it points at the line of the test"
    with pytest.raises(AssertionError, match="\nnoisy: a neighbour; drift\n"):
        assert_latency(Sleeps(1), "3x4x4", max="1us", rounds=10, seconds=1)


def test_workers_do_not_measure_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    with pytest.raises(
        pytest.skip.Exception, match=r"latency is not measured in gw1 of pytest-xdist.*under_xdist=True"
    ):
        assert_latency(Sleeps(0), "3x4x4", max="1 s")
    with pytest.raises(AssertionError):
        assert_latency(Sleeps(1), "3x4x4", max="1us", rounds=10, seconds=1, under_xdist=True)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="max: '3' has no unit"):
        assert_latency(Sleeps(0), "3x4x4", max="3")
    with pytest.raises(ConfigError, match="max='60%' is a share of another model's"):
        assert_latency(Sleeps(0), "3x4x4", max="60%")
    with pytest.raises(ConfigError, match=r"rounds=5.*give 1 thread or more, 10 rounds or more"):
        assert_latency(Sleeps(0), "3x4x4", max="1 s", rounds=5)
    with pytest.raises(ModelError, match="against does not take 3x4x4 images"):
        assert_latency(Sleeps(0), "3x4x4", max="60%", against=nn.Linear(3, 3))
