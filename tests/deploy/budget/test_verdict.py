"""The one rule by which a figure passes its limit."""

from typing import Any

import pytest

from slimsight.deploy.budget import check_figure
from slimsight.deploy.budget.limit import Limit
from slimsight.deploy.budget.verdict import check_levels
from slimsight.deploy.report.units import check_texts


@pytest.mark.parametrize("bound", ["max", "min", "equal"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_a_figure_that_is_missing_or_not_finite_never_passes(bound: Any, value: float | None) -> None:
    check = check_figure("MACs", 1.0, value, "MACs", bound=bound)
    assert (check.value, check.passed) == (None, False)


def test_the_limit_itself_passes_every_bound() -> None:
    assert check_figure("MACs", 5, 5, "MACs", bound="max").passed
    assert check_figure("MACs", 5, 5, "MACs", bound="min").passed
    assert check_figure("MACs", 5, 5, "MACs", bound="equal").passed
    assert not check_figure("MACs", 5, 6, "MACs", bound="max").passed
    assert not check_figure("MACs", 5, 4, "MACs", bound="min").passed


def test_only_accuracies_have_slack_and_only_for_what_floats_lose() -> None:
    assert check_figure("accuracy drop", 0.01, 0.90 - 0.89, "points").passed
    assert not check_figure("accuracy drop", 0.01, 0.01 + 1e-6, "points").passed
    assert not check_figure("error", 1e-5, 1e-5 + 1e-12, "error").passed


def test_a_failure_below_one_unit_shows_all_digits() -> None:
    failed = check_figure("MACs", 83_103.6, 83_104, "MACs")
    assert check_texts(failed) == ("at most 83103.6", "83,104")


def test_a_missing_figure_misses_the_level_that_fails_first() -> None:
    assert check_levels(("macs",), "MACs", Limit(2.0, 1.0), None, "MACs", bound="max").status == "failed"
    assert check_levels(("macs",), "MACs", Limit(None, 1.0), None, "MACs", bound="max").status == "warned"
