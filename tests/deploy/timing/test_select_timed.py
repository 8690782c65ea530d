"""Plans under a latency limit, with a timer that says what each plan takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import PruningError
from slimsight.compress.gates import CostModel
from slimsight.compress.gates.cost import ClosedForm
from slimsight.compress.progress import Silent
from slimsight.compress.surgery import PrunePlan, trace_groups
from slimsight.deploy.timing.latency import LatencyRow
from slimsight.deploy.timing.plan_latency import AIM, CLOSE, CORRECTIONS, TimedPlan, select_timed
from slimsight.deploy.timing.statistics import Quantiles, Speedup

ORIGINAL_MS = 4.0


def build_cost() -> CostModel:
    """Four convolutions; the table says that 1 M MACs take 1 ms, and all the rest 0.2 ms."""
    widths = (3, 32, 48, 48, 64)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    example = torch.zeros(1, 3, 8, 8)
    cost = CostModel.of(model, example, trace_groups(model, example).groups)
    unit = np.array([layer.unit for layer in cost.layers], dtype=np.float64)
    return cost.timed(ClosedForm(unit / 1e6, np.zeros(len(unit)), 0.2))


COST = build_cost()
SCORES: dict[str, Tensor] = {
    name: torch.rand(width, generator=torch.Generator().manual_seed(width))
    for name, width in zip(COST.names, COST.widths, strict=True)
}
TOTAL = COST.totals["latency"]
HALF = Amount(0.5, relative=True)


class Clockwork:
    """A timer: ``ratio(predicted)`` is what a plan takes of the original, given what the table says it takes of it."""

    def __init__(self, ratio: Callable[[float], float], original_ms: float = ORIGINAL_MS) -> None:
        self.ratio, self.original_ms = ratio, original_ms
        self.plans: list[PrunePlan] = []
        self.measured: list[float] = []

    def of_plan(self, plan: PrunePlan) -> LatencyRow:
        self.plans.append(plan)
        self.measured.append(self.ratio(COST.amounts(plan)["latency"] / TOTAL))
        slim = self.original_ms * self.measured[-1]
        original, slimmed = (Quantiles(ms, ms, ms) for ms in (self.original_ms, slim))
        speedup = self.original_ms / slim
        return LatencyRow("onnxruntime", "fp32", 1, 1, original, slimmed, Speedup(speedup, speedup, speedup))


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def track(self, items: Iterable[Any], what: str, **options: Any) -> Iterator[Any]:
        yield from items


def find(timer: Clockwork, latency: Amount = HALF, limits: dict[str, float] | None = None, **options: Any) -> TimedPlan:
    found: TimedPlan = select_timed(COST, SCORES, limits or {}, latency, timer, **options)
    return found


def test_where_the_table_is_right_the_first_plan_does() -> None:
    timer, notes = Clockwork(lambda predicted: predicted), Notes()
    found = find(timer, progress=notes)
    assert len(timer.plans) == 1
    assert 0.5 * CLOSE <= found.slim_ms / found.original_ms <= 0.5 * AIM
    assert found.selection.used["latency"] / TOTAL == pytest.approx(timer.measured[0])
    (said,) = notes.said
    assert said.startswith("plan 1: 1.")
    assert "of the latency limit; " in said


def test_the_table_of_int8_starts_at_what_int8_takes_of_the_original_in_fp32() -> None:
    """INT8 alone takes 40 %: a limit of 20 % is half of that, and one of 80 % still removes something."""

    class InInt8(Clockwork):
        def of_plan(self, plan: PrunePlan) -> LatencyRow:
            row = super().of_plan(plan)
            return replace(row, slim_ms=row.original_ms, int8_ms=row.slim_ms, int8_speedup=row.speedup)

    timer = InInt8(lambda predicted: 0.4 * predicted)
    found = find(timer, Amount(0.2, relative=True), precision_ratio=0.4)
    assert len(timer.plans) == 1
    assert 0.2 * CLOSE <= found.slim_ms / found.original_ms <= 0.2 * AIM
    assert found.selection.used["latency"] / TOTAL == pytest.approx(0.5, abs=0.02)
    loose = find(InInt8(lambda predicted: 0.4 * predicted), Amount(0.8, relative=True), precision_ratio=0.4)
    assert 0.9 < loose.selection.used["latency"] / TOTAL <= AIM
    first = InInt8(lambda predicted: 0.4 * predicted, original_ms=TOTAL / 0.4)
    found = find(first, Amount(0.5 * TOTAL, relative=False), precision_ratio=0.4)
    assert len(first.plans) == 1
    assert 0.5 * TOTAL * CLOSE <= found.slim_ms <= 0.5 * TOTAL


@pytest.mark.parametrize("error", [0.15, -0.15])
def test_what_was_measured_corrects_the_table(error: float) -> None:
    """Models always take 15 points more (or less) of the original than the table says."""
    timer = Clockwork(lambda predicted: predicted + error)
    found = find(timer)
    assert 1 < len(timer.plans) <= CORRECTIONS
    assert 0.5 * CLOSE <= found.slim_ms / found.original_ms <= 0.5
    assert found.selection.used["latency"] / TOTAL == pytest.approx(0.5 - error, abs=0.02)


def test_a_time_is_one_on_this_machine() -> None:
    """1 ms of an original that takes 4 ms now, though the table was made when it took what its total says."""
    timer = Clockwork(lambda predicted: predicted)
    found = find(timer, Amount(1.0, relative=False))
    assert CLOSE <= found.slim_ms <= 1.0
    assert len(timer.plans) == 2


def test_other_limits_hold_too_and_end_the_search_where_they_bind() -> None:
    timer = Clockwork(lambda predicted: predicted)
    limits = {"macs": 0.25 * COST.total}
    found = find(timer, limits=limits)
    assert len(timer.plans) == 1
    assert CLOSE * limits["macs"] <= found.selection.used["macs"] <= limits["macs"]
    assert found.slim_ms < 0.4 * found.original_ms


def test_a_runtime_faster_than_the_table_still_leaves_something_to_remove() -> None:
    """By what was measured the whole model would hold; the plan that removes least is taken, without a complaint."""
    timer, notes = Clockwork(lambda predicted: 0.8 * predicted), Notes()
    found = find(timer, Amount(0.95, relative=True), progress=notes)
    assert found.selection.used["latency"] == pytest.approx(AIM * TOTAL, rel=0.01)
    assert all(said.startswith("plan ") for said in notes.said)


def test_of_the_plans_that_hold_the_one_that_keeps_most_is_returned() -> None:
    """The first is too slow, the second holds with much to spare, the third is too slow again."""
    times = iter([0.6, 0.4, 0.51, 0.505])
    timer = Clockwork(lambda _: next(times))
    found = find(timer)
    assert found.slim_ms == pytest.approx(0.4 * ORIGINAL_MS)
    assert found.selection.plan == timer.plans[1]

    times = iter([0.45, 0.44, 0.43, 0.42])  # each holds, none is close: every next one keeps more
    timer = Clockwork(lambda _: next(times))
    found = find(timer)
    macs = [COST.of_plan(plan) for plan in timer.plans]
    assert macs == sorted(macs)
    assert found.selection.plan == timer.plans[-1]


def test_where_none_holds_the_fastest_is_returned_and_said() -> None:
    times = iter([0.9, 0.7, 0.6, 0.8])
    timer, notes = Clockwork(lambda _: next(times)), Notes()
    found = find(timer, progress=notes)
    assert len(timer.plans) == CORRECTIONS
    assert found.selection.plan == timer.plans[2]
    assert not found.holds(HALF)
    assert notes.said[-1] == (
        "none of 4 timed plans holds the latency limit: the fastest takes 2.40 ms, 2.00 ms allowed; "
        "raise budget.latency"
    )


def test_a_limit_below_the_table_is_refused_and_one_below_what_is_measured_ends_the_search() -> None:
    timer = Clockwork(lambda predicted: predicted)
    with pytest.raises(PruningError, match=r"the budget of .* ms .* cannot be reached.*raise budget\.latency"):
        find(timer, Amount(0.01, relative=True))
    assert timer.plans == []

    timer, notes = Clockwork(lambda _: 1.1), Notes()  # nothing makes it faster
    found = find(timer, Amount(0.3, relative=True), progress=notes)
    assert found.slim_ms == pytest.approx(1.1 * ORIGINAL_MS)
    assert notes.said[-2] == "the layers' times say that no smaller plan is faster"
    assert notes.said[-1].startswith("none of 2 timed plans holds")


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(errors=st.lists(st.floats(0.7, 1.6), min_size=CORRECTIONS, max_size=CORRECTIONS), share=st.floats(0.3, 0.9))
def test_however_wrong_the_table_is(errors: list[float], share: float) -> None:
    """No plan is timed twice; the search ends early only with a plan that holds, or where no plan is left."""
    left, notes = iter(errors), Notes()
    timer, latency = Clockwork(lambda predicted: predicted * next(left)), Amount(share, relative=True)
    found = find(timer, latency, progress=notes)
    held = [plan for plan, ratio in zip(timer.plans, timer.measured, strict=True) if ratio <= share]
    assert len({str(plan.kept) for plan in timer.plans}) == len(timer.plans)
    if held:
        assert found.holds(latency)
        assert found.selection.macs == max(COST.of_plan(plan) for plan in held)
    else:
        assert len(timer.plans) == CORRECTIONS or any("no smaller plan is faster" in said for said in notes.said)
        assert found.slim_ms == pytest.approx(min(timer.measured) * ORIGINAL_MS)
