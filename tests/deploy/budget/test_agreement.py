"""Agreement with the original in the run's own verdict and in budget files, where images have no labels."""

from typing import Any

import pytest
from pydantic import ValidationError

from slimsight.deploy.budget import AgreementFacts, BudgetFile, SlimmingFacts, check_report, run_checks
from slimsight.deploy.budget.agreement import agreement_check
from slimsight.deploy.report.parts import AgreementFigures
from slimsight.deploy.report.rows import agreement, unjudged
from slimsight.deploy.report.schema import Report

MADE = SlimmingFacts(
    kept=0.8, limits=("macs",), epochs=10, steps=3000, lr=0.01, recalibrated=0.45, distill=1.0, gate_steps=1000
)


def facts(top1: float, least: float = 0.9) -> AgreementFacts:
    found = AgreementFigures(top1=top1, images=64, low=0.75, high=0.93, chance=0.03)
    return AgreementFacts(found, least, MADE)


@pytest.mark.parametrize(("top1", "passes"), [(0.9, True), (0.95, True), (0.89, False)])
def test_the_share_of_images_decides(top1: float, passes: bool) -> None:
    check = agreement_check(facts(top1))
    assert (check.name, check.limit, check.value, check.passed) == ("agreement with the original", 0.9, top1, passes)
    assert (check.bound, check.unit) == ("min", "images")


def test_a_failed_check_says_how_sure_it_is_and_what_to_change() -> None:
    check = agreement_check(facts(0.5))
    assert check.reason == "50.00 % of 64 validation images, 95 % interval 75.0 % to 93.0 %; by chance 3.00 %"
    assert check.remedy is not None
    assert check.remedy.startswith("raise budget.macs (80.0 % of the MACs are kept), finetune longer")
    assert check.remedy.endswith("more images to learn from help most")
    assert "finetune.distill" not in check.remedy


@pytest.fixture
def unlabelled(content: dict[str, Any]) -> Report:
    """A report of images without labels."""
    for model in ("original", "slim"):
        content[model] |= {"val_accuracy": None, "test_accuracy": None}
    del content["gated"]
    content["data"]["labels"] = "none"
    test = {"top1": 0.8, "images": 80, "low": 0.7, "high": 0.88}
    content["agreement"] = {"top1": 0.875, "images": 64, "low": 0.77, "high": 0.94, "chance": 0.03, "test": test}
    return Report.model_validate(content)


def test_the_verdict_says_whether_agreement_was_judged(unlabelled: Report) -> None:
    parts = {name: getattr(unlabelled, name) for name in ("slim", "budget", "exactness", "parity", "latency")}
    judged = run_checks(**parts, accuracy=None, agreement=facts(0.5), labelled=False)
    assert (judged.agreement_judged, judged.accuracy_judged, judged.passed) == (True, None, False)
    assert unjudged(judged) is None
    left = run_checks(**parts, accuracy=None, labelled=False)
    assert (left.agreement_judged, left.accuracy_judged, left.passed) == (False, None, True)
    assert unjudged(left) == "agreement with the original was measured, not judged (checks.agreement is null)"


def test_the_report_speaks_of_agreement_and_claims_no_accuracy(unlabelled: Report) -> None:
    assert agreement(unlabelled) == (
        "Slim model and original predict the same class on 87.50 % of 64 validation images (95 % interval: 77.2 % to "
        "93.5 %), and on 80.00 % of 80 test images (70.0 % to 88.0 %). By chance it would be 3.00 %. The images have "
        "no labels, so nothing is known of the accuracy of either model."
    )


def test_budget_files_limit_agreement_and_fail_what_needs_labels(unlabelled: Report) -> None:
    limits = BudgetFile.model_validate({"agreement": "85%", "accuracy": "1%", "accuracy_drop": "50%"})
    found = {item.check.name: item.check for item in check_report(unlabelled, limits).items}
    check = found["test agreement with the original"]
    assert (check.value, check.limit, check.passed) == (0.8, 0.85, False)
    for name in ("validation accuracy", "validation accuracy drop"):
        assert not found[name].passed
        assert found[name].reason is not None
        assert "limit agreement instead" in found[name].reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "validation accuracies are null, but data.labels is not none"),
        ({"agreement": None}, "data.labels is none: there must be an agreement, and no accuracies"),
    ],
)
def test_reports_that_know_neither_are_refused(unlabelled: Report, change: dict[str, Any], message: str) -> None:
    content = unlabelled.model_dump(mode="json", by_alias=True)
    if "labels" in change:
        del content["data"]["labels"]
    else:
        del content["agreement"]
    with pytest.raises(ValidationError, match=message):
        Report.model_validate(content)
