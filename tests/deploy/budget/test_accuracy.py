"""Accuracy in the run's own verdict: the drop, chance level, and what a failed check says to change."""

import math
from typing import Any

import pytest

from slimsight.deploy.budget import AccuracyFacts, BudgetFile, SlimmingFacts, check_report, run_checks
from slimsight.deploy.budget.accuracy import CHANCE, DROP, accuracy_checks
from slimsight.deploy.report.rows import verdict as in_words
from slimsight.deploy.report.schema import Report, Verdict
from slimsight.deploy.report.shares import wilson

MADE = SlimmingFacts(
    kept=0.5,
    limits=("macs",),
    epochs=10,
    steps=3000,
    lr=0.05,
    recalibrated=0.2,
    steer="none",
    gate_steps=1000,
    converged=True,
)


def facts(original: float | None, slim: float | None, made: SlimmingFacts = MADE, **other: Any) -> AccuracyFacts:
    return AccuracyFacts(
        **{
            "original": original,
            "slim": slim,
            "images": 500,
            "classes": 10,
            "majority": 0.12,
            "drop_max": 0.02,
            "made": made,
            **other,
        }
    )


def failed(of: AccuracyFacts) -> dict[str, str | None]:
    return {check.name: check.reason for check in accuracy_checks(of) if not check.passed}


def remedy(of: AccuracyFacts) -> str:
    (text,) = {check.remedy for check in accuracy_checks(of) if not check.passed}
    assert text is not None
    return text


def changed(**other: Any) -> SlimmingFacts:
    return SlimmingFacts(**{**MADE.__dict__, **other})


def test_both_checks_hold_their_limits_and_values() -> None:
    drop, chance = accuracy_checks(facts(0.90, 0.88))
    assert (drop.name, drop.limit, drop.value, drop.bound, drop.passed) == (DROP, 0.02, 0.02, "max", True)
    assert (chance.name, chance.limit, chance.bound, chance.passed) == (CHANCE, 0.12, "min", True)
    assert chance.value == pytest.approx(wilson(0.88, 500)[0])
    assert drop.remedy is None
    assert chance.remedy is None


@pytest.mark.parametrize(("slim", "passes"), [(0.95, True), (0.88, True), (0.878, False), (0.05, False)])
def test_two_points_are_allowed_and_no_image_more(slim: float, passes: bool) -> None:
    assert (DROP not in failed(facts(0.90, slim))) is passes


def test_from_75_to_5_percent_fails_and_says_so() -> None:
    of = facts(0.75, 0.05)
    assert failed(of) == {
        DROP: "75.00 % of the original, 5.00 % of the slim model",
        CHANCE: "5.00 % of 500 validation images: no better than always the most frequent class, which is right for "
        "12.00 %",
    }


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
@pytest.mark.parametrize("which", ["original", "slim"])
def test_an_accuracy_that_is_missing_or_no_number_never_passes(nothing: float | None, which: str) -> None:
    of = facts(**{"original": 0.9, "slim": 0.9, which: nothing})
    checks = {check.name: check for check in accuracy_checks(of)}
    assert not checks[DROP].passed
    assert checks[DROP].value is None
    assert checks[DROP].reason == "the accuracy was not measured, or is not a number"
    assert checks[CHANCE].passed is (which == "original")


def test_chance_fails_whatever_the_limit() -> None:
    """14.8 % of 500 images may be 12 %: 74 of them have an interval from 11.95 %; 75 one from 12.1 %."""
    assert set(failed(facts(0.16, 0.148, drop_max=0.99))) == {CHANCE}
    assert not failed(facts(0.16, 0.150, drop_max=0.99))


def test_chance_is_the_most_frequent_class_or_one_of_the_classes() -> None:
    assert facts(0.9, 0.9, majority=0.7, classes=4).chance == 0.7
    assert facts(0.9, 0.9, majority=0.25, classes=2).chance == 0.5
    reason = failed(facts(0.9, 0.5, majority=0.25, classes=2, drop_max=0.99))[CHANCE]
    assert reason == "50.00 % of 500 validation images: no better than one of 2 classes, which is right for 50.00 %"


def test_an_original_that_knows_nothing_is_named_first() -> None:
    said = remedy(facts(0.12, 0.10, drop_max=0.05))
    assert said.startswith(
        "the original is no better than chance itself (12.00 %): train it longer (model.train.epochs)"
    )
    assert "finetune" not in said


@pytest.mark.parametrize(
    ("made", "slim", "says"),
    [
        (changed(), 0.7, "raise budget.macs (50.0 % of the MACs are kept), finetune longer (finetune.epochs, now 10), "
         "learn from the original (finetune.distill)"),
        (changed(distill=0.5), 0.7, "raise budget.macs (50.0 % of the MACs are kept), finetune longer "
         "(finetune.epochs, now 10)"),
        (changed(epochs=1, steps=44, kept=0.1), 0.7,
         "finetuning had only 1 epoch (44 steps): raise finetune.epochs; only 10.0 % of the MACs are kept: raise "
         "budget.macs"),
        (changed(epochs=0, steps=0, limits=("params", "latency")), 0.5,
         "the slim model was not finetuned: set finetune.epochs above 0; or raise budget.params or budget.latency "
         "(50.0 % of the MACs are kept)"),
        (changed(epochs=12, steps=900), 0.7, "finetuning had only 12 epochs (900 steps): raise finetune.epochs; or "
         "raise budget.macs (50.0 % of the MACs are kept)"),
        (changed(recalibrated=0.806), 0.355, "finetuning lost 45.10 points of the 80.60 % that it began with: lower "
         "finetune.lr (now 0.05); or raise budget.macs (50.0 % of the MACs are kept)"),
        (changed(converged=False, gate_steps=60), 0.7, "the gates did not converge: raise gates.steps (now 60); or "
         "raise budget.macs (50.0 % of the MACs are kept)"),
        (changed(gate_steps=60), 0.7, "the gates learned for 60 steps only: raise gates.steps; or raise budget.macs "
         "(50.0 % of the MACs are kept)"),
        (changed(steer="magnitude", gate_steps=None, converged=None), 0.7,
         "channels were ranked by weight magnitude: learn gates instead (gates.steer: none); or raise budget.macs "
         "(50.0 % of the MACs are kept)"),
        (changed(), 0.87, "raise budget.macs (50.0 % of the MACs are kept), finetune longer (finetune.epochs, now 10), "
         "learn from the original (finetune.distill); or allow the drop of 3.00 points (checks.accuracy_drop)"),
    ],
)  # fmt: skip
def test_what_to_change_follows_from_the_run(made: SlimmingFacts, slim: float, says: str) -> None:
    assert remedy(facts(0.9, slim, made)) == says


def judged(content: dict[str, Any], accuracy: AccuracyFacts | None) -> Report:
    report = Report.model_validate(content)
    verdict = run_checks(
        slim=report.slim, budget=report.budget, exactness=report.exactness, accuracy=accuracy, parity=report.parity
    )
    return report.model_copy(update={"verdict": verdict})


def test_the_verdict_says_what_failed_and_what_to_change(content: dict[str, Any]) -> None:
    starved = changed(epochs=1, steps=44, kept=0.1)
    report = judged(content, facts(0.75, 0.25, starved))
    assert not report.verdict.passed
    assert report.verdict.accuracy_judged is True
    assert in_words(report) == (
        "1 of 6 checks. validation accuracy drop: 50.00 points, at most 2.00 points allowed (75.00 % of the original, "
        "25.00 % of the slim model). What to change: finetuning had only 1 epoch (44 steps): raise finetune.epochs; "
        "only 10.0 % of the MACs are kept: raise budget.macs."
    )


def test_what_to_change_is_said_once(content: dict[str, Any]) -> None:
    report = judged(content, facts(0.75, 0.05))
    assert len(report.verdict.failed) == 2
    assert in_words(report).count("What to change") == 1


def test_a_verdict_without_accuracy_says_so(content: dict[str, Any]) -> None:
    report = judged(content, None)
    assert (report.verdict.passed, report.verdict.accuracy_judged) == (True, False)
    assert in_words(report) == "all 4 checks hold. Accuracy was measured, not judged (checks.accuracy_drop is null)."


def test_reports_of_earlier_versions_say_what_they_said(content: dict[str, Any]) -> None:
    old = Report.model_validate(content)
    assert (old.verdict.accuracy_judged, old.agreement) == (None, None)
    assert "accuracy_judged" not in old.model_dump(mode="json", by_alias=True)["verdict"]
    assert "judged" not in in_words(old)


def own(report: Report, **level: Any) -> Any:
    return check_report(report, BudgetFile.model_validate({"own_checks": level or True}))


def test_a_budget_file_can_refer_to_the_runs_own_checks(content: dict[str, Any]) -> None:
    report = judged(content, facts(0.75, 0.25))
    verdict = own(report)
    assert not verdict.passed
    assert [check.name for check in verdict.checks] == [check.name for check in report.verdict.checks]
    (item,) = verdict.failed
    assert item.check.name == DROP
    assert item.check.reason is not None
    assert "; raise budget.macs (50.0 % of the MACs are kept)" in item.check.reason
    assert own(report, warn=True).passed
    assert own(judged(content, facts(0.9, 0.9))).summary() == "all 6 checks passed"


def test_a_run_that_did_not_judge_accuracy_is_warned_of(content: dict[str, Any]) -> None:
    for report in (judged(content, None), Report.model_validate(content)):
        verdict = own(report)
        assert verdict.passed
        (item,) = verdict.warned
        assert item.check.name == "accuracy judged by the run"


def test_own_checks_take_true_only() -> None:
    with pytest.raises(ValueError, match="False is not a valid choice: give true, or remove the line"):
        BudgetFile.model_validate({"own_checks": False})


def test_a_verdict_of_nan_figures_is_refused() -> None:
    assert not Verdict.of(accuracy_checks(facts(math.nan, math.nan)), accuracy_judged=True).passed
