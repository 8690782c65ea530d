"""Limits on saliency drift in a budget file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.budget import BudgetFile, Limit, check_report, load_budget
from slimsight.deploy.budget.schema import DriftLimits
from slimsight.deploy.report.parts_explained import MapDriftFigures
from slimsight.deploy.report.schema import Check, Report, SaliencyFigures
from slimsight.deploy.report.units import describe_check

ESTIMATE = {"mean": 0.5, "standard_error": 0.01, "images": 100}
NONE = {"constant": 0, "zero": 0}
MAPS: dict[str, Any] = {
    "images": 100,
    "center_px": ESTIMATE,
    "region_iou": ESTIMATE | {"mean": 0.7},
    "spearman": ESTIMATE,
    "kl": ESTIMATE,
    "moved": ESTIMATE | {"mean": 0.08},
    "lost": 0.0,
    "degenerate": {"original": NONE, "slim": NONE},
}


def report(finished: Any, maps: dict[str, Any] | None) -> Report:
    found = None if maps is None else MapDriftFigures.model_validate(maps)
    saliency = SaliencyFigures(explainer="rbf", center_drift_px=2.5, iou=0.6, maps=found)
    return finished.report.model_copy(update={"saliency": saliency})


def checks(found: Report, **limits: Any) -> tuple[Check, ...]:
    return check_report(found, BudgetFile.model_validate({"saliency_drift": limits})).checks


def test_every_limit_has_its_check(finished: Any) -> None:
    found = checks(report(finished, MAPS), center_px="3px", iou="50%", region_iou=0.7, moved="8%", lost="1%")
    assert [check.passed for check in found] == [True] * 5
    assert [check.value for check in found] == [2.5, 0.6, 0.7, 0.08, 0.0]
    assert [describe_check(check) for check in found] == [
        "saliency drift, centre: 2.50 px, at most 3.00 px allowed",
        "saliency drift, overlap of maps: 60.00 %, at least 50.00 % allowed",
        "saliency drift, overlap of regions: 70.00 %, at least 70.00 % allowed",
        "saliency drift, top region moved: 8.0 % of the images, at most 8.0 % of the images allowed",
        "saliency drift, explanation lost: 0.0 % of the images, at most 1.0 % of the images allowed",
    ]


@pytest.mark.parametrize(
    ("limits", "failed"),
    [
        ({"center_px": 2.49}, "centre"),
        ({"iou": 0.61}, "overlap of maps"),
        ({"region_iou": 0.71}, "overlap of regions"),
        ({"moved": 0.07}, "top region moved"),
    ],
)
def test_what_drifted_too_far_fails(finished: Any, limits: dict[str, float], failed: str) -> None:
    assert [check.name for check in checks(report(finished, MAPS), **limits) if not check.passed] == [
        f"saliency drift, {failed}"
    ]


def test_lost_explanations_fail_unless_allowed(finished: Any) -> None:
    """Means leave them out: without this check a model that lost its explanations would pass."""
    found = report(finished, MAPS | {"lost": 0.02})
    assert [check.passed for check in checks(found, center_px=3)] == [True, False]
    assert [check.passed for check in checks(found, center_px=3, lost=0.02)] == [True, True]


def test_a_run_without_an_explainer_fails_and_says_why(finished: Any) -> None:
    found = checks(finished.report.model_copy(update={"saliency": None}), center_px=3, moved=0.1)
    assert [(check.passed, check.value) for check in found] == [(False, None)] * 2
    assert all("the run has no explainer" in str(check.reason) for check in found)


def test_a_report_of_an_earlier_version_keeps_the_checks_it_can(finished: Any) -> None:
    found = checks(report(finished, None), center_px=3, iou=0.5, region_iou=0.5)
    assert [check.passed for check in found] == [True, True, False]
    assert "run 'slimsight run' again" in str(found[-1].reason)


def test_no_image_with_two_maps_is_no_pass(finished: Any) -> None:
    nothing = {"mean": None, "standard_error": None, "images": 0}
    (check, _) = checks(report(finished, MAPS | {"region_iou": nothing}), region_iou=0.5)
    assert not check.passed
    assert "no image defines it" in str(check.reason)


def test_a_limit_on_the_share_of_the_way_to_chance(finished: Any) -> None:
    level = {"center_drift_px": 4.0, "sigma_drift_px": 0.5, "iou": 0.6, "images": 100}
    chance = {"constant": level, "other": level, "share": ESTIMATE | {"mean": 0.4}, "r2": 0.7}
    figures = SaliencyFigures(explainer="rbf", center_drift_px=2.5, iou=0.84, chance=chance)
    found = finished.report.model_copy(update={"saliency": figures})
    assert [check.passed for check in checks(found, share="40%")] == [True]
    (check,) = checks(found, share=0.39)
    assert (check.passed, check.value) == (False, 0.4)
    assert describe_check(check) == "saliency drift, share of the way to chance: 40.00 %, at most 39.00 % allowed"
    (check,) = checks(report(finished, None), share=0.5)
    assert not check.passed
    assert "before chance levels were measured" in str(check.reason)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{far: 3}", "saliency_drift.far: unknown key; allowed: center_px, iou, share, region_iou, moved, lost"),
        ("{center_pix: 3}", "; did you mean 'center_px'?"),
        ("3", "saliency_drift: 3 was given; allowed: a mapping with the keys center_px, iou"),
        ("{}", "saliency_drift: it limits nothing: give at least one of center_px"),
        ("", "saliency_drift: has no value"),
        ("{iou: }", "saliency_drift.iou: has no value"),
        (
            "{iou: 50}",
            "saliency_drift.iou: 50 is not a valid overlap of maps: give a share from 0 to 1 or a percentage",
        ),
        ("{center_px: 3mm}", "saliency_drift.center_px: '3mm' is not a valid distance: give the most pixels allowed"),
        ("{center_px: -1}", "saliency_drift.center_px: -1 is not a valid distance"),
        ("{moved: much}", "saliency_drift.moved: 'much' is not a valid share of images"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "budget.yaml"
    path.write_text(f"saliency_drift: {text}")
    with pytest.raises(ConfigError) as error:
        load_budget(path)
    assert said in str(error.value)


def test_a_budget_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "budget.yaml"
    path.write_text("macs: 50%\nsaliency_drift: {center_px: {fail: 3, warn: 2px}, iou: 50 %, moved: 0.1}\n")
    assert load_budget(path).limits.saliency_drift == DriftLimits(
        center_px=Limit(3.0, 2.0), iou=Limit(0.5), moved=Limit(0.1)
    )


def test_what_drifted_a_little_warns(finished: Any) -> None:
    found = check_report(
        report(finished, MAPS), BudgetFile.model_validate({"saliency_drift": {"center_px": {"fail": 3, "warn": 2}}})
    )
    assert found.passed
    assert [item.check.name for item in found.warned] == ["saliency drift, centre"]
