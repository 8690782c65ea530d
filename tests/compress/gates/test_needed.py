"""How many steps gates need: by hand, and the trends that the rule must have."""

from __future__ import annotations

import math

import pytest

from slimsight.compress.config import GatesConfig
from slimsight.compress.gates import steps_needed


def test_half_of_the_macs_by_hand() -> None:
    """Were all gates to stay open, R_res would be the log of (MACs / target) at every step."""
    steps = 10_000
    total = 0.0
    for step in range(round(0.8 * steps)):
        fallen = min(1.0, step / steps / 0.6)
        total += math.log(1 / (1 - 0.5 * fallen))
    mean = total / steps
    assert mean == pytest.approx(0.3227, abs=1e-3)
    # From 2 by 2 R_res a step to 34, and twice the steps.
    expected = 2 * (34 / 2 - 1) / mean
    assert steps_needed(GatesConfig(), 0.5) == 10 * math.ceil(expected / 10) == 100


@pytest.mark.parametrize(
    ("settings", "share", "expected"),
    [
        ({"cost_weight": 4.0}, 0.5, 50),
        ({"cost_weight": 40.0}, 0.5, 20),  # it is above the pull from the first step on
        ({"lr": 0.01}, 0.5, 680),  # 3.37 to an open gate's end, twice
        ({"lr": 1.0}, 0.5, 100),
        ({}, 0.1, 130),
        ({}, 0.99, 20),
        ({"shrink": 0.9}, 0.5, 140),
    ],
    ids=str,
)
def test_what_makes_gates_need_more_or_fewer(settings: dict[str, float], share: float, expected: int) -> None:
    assert steps_needed(GatesConfig.model_validate(settings), share) == expected
