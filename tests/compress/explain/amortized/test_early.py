"""When a training is looked at, and how it is stopped."""

from __future__ import annotations

import pytest

from slimsight.compress.errors import ExplainerRefused
from slimsight.compress.explain.amortized import early
from slimsight.compress.explain.amortized.early import EarlyChecks


def looks(steps: int, first: int = 0) -> list[tuple[int, bool]]:
    seen: list[tuple[int, bool]] = []

    def look(step: int, *, late: bool) -> None:
        seen.append((step, late))

    checks = EarlyChecks("selector", steps, look)
    for step in range(first, steps):
        checks.after_step(step)
    return seen


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1000, [(100, False), (500, True)]),
        (105, [(20, False), (53, True)]),  # not before 20 steps
        (30, [(20, True)]),
        (20, []),  # it is judged at its end
    ],
)
def test_a_training_is_looked_at_after_a_tenth_and_a_half(steps: int, expected: list[tuple[int, bool]]) -> None:
    assert looks(steps) == expected


def test_a_resumed_training_is_looked_at_where_it_still_would_be() -> None:
    assert looks(1000, first=99) == [(100, False), (500, True)]
    assert looks(1000, first=100) == [(500, True)]


def test_a_hopeless_one_is_stopped_and_the_time_saved_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 29.0])  # after the first step, and after 19 more
    monkeypatch.setattr(early.time, "monotonic", lambda: next(clock))
    checks = EarlyChecks("selector", 200, lambda step, *, late: f"no hope, {late}")
    for step in range(19):
        checks.after_step(step)
    with pytest.raises(ExplainerRefused, match=r"^no hope, False \(after step 20 of 200\)$") as refused:
        checks.after_step(19)
    assert (refused.value.step, refused.value.steps) == (20, 200)
    assert refused.value.seconds_saved == pytest.approx(180)  # a second for each step that is left
