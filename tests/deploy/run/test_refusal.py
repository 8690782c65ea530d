"""A run whose explainer explains nothing, or whose gates do not converge: it goes on, says so, keeps what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import ExplainerRefused, TrainingError
from slimsight.deploy.budget import BudgetFile, check_report
from slimsight.deploy.report import Report
from slimsight.deploy.run_dir import open_run, read_run

from .runs import STAGES, Rerun, comparable, contents, reused

WHY = "the selector's masks are no better than centred ones of the same area (KL 0.313 against 0.285 nats)"
OTHER = "explainer.selector.epochs=3"  # the selector is trained anew


@pytest.fixture
def useless(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No selector passes its quality check; the names of the trainings that were tried."""
    tried: list[str] = []

    def refuse(*_arguments: Any) -> None:
        tried.append("selector")
        raise ExplainerRefused(WHY, step=40, steps=400, seconds_saved=90.0)

    monkeypatch.setattr("slimsight.deploy.run.stages.learn.learn_selector", refuse)
    return tried


def test_a_run_goes_on_without_an_explainer_that_explains_nothing(
    finished: Any, rerun: Rerun, useless: list[str], notes: Any, say: Callable[..., Any], tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    report = rerun(root, OTHER, progress=notes)
    assert reused(report) == ["classifier", "predictor"]
    assert report.verdict.passed  # its exit code is that of its checks
    assert report.gates is not None
    assert (report.gates.steer, report.gates.steer_asked) == ("none", "rbf")
    assert report.gates.history is not None
    assert report.gates.history.steer is None
    assert report.explainer is not None
    assert report.explainer.model_dump() == {
        "kind": "rbf",
        "used": False,
        "reason": WHY,
        "stage": "selector",
        "stopped_after": 40,
        "planned_steps": 400,
        "seconds_saved": 90.0,
    }
    assert report.saliency is None
    note = f"The gates were NOT steered by explanations: gates.steer rbf was asked for, and {WHY}."
    assert report.verdict.notes == (note,)
    assert f"selector: the explainer is not used: {WHY}" in notes.lines
    assert "selector: stopped after step 40 of 400, about 1 min 30 s saved" in notes.lines
    assert not {"slim/explainer.safetensors", "saliency.png", "drift.png"} & contents(root).keys()
    text = (root / "report.md").read_text(encoding="utf-8")
    assert note in text[: text.index("## ")]
    assert "gates learned without the explainer, although rbf was asked to steer them" in text
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "NOT steered" in page[: page.index('id="verdict"')]

    # The outcome is kept: nothing is learned again, and those who insist are told at once.
    again = rerun(root, OTHER)
    assert reused(again) == STAGES
    assert comparable(again) == comparable(report)
    assert useless == ["selector"]
    before = contents(root)
    with pytest.raises(ExplainerRefused, match=r"KL 0\.313 .*explainer\.required is true: set it to false to go on"):
        rerun(root, OTHER, "explainer.required=true")
    assert {name for name in before if name not in contents(root)} == set()
    assert useless == ["selector"]
    assert reused(rerun(root, OTHER)) == STAGES

    for command in (("trust", root, "--with", "rbf"), ("explain", root, root / "channels.png")):
        said = say(*command)
        assert said.code == 2
        assert "went on without it: the selector's masks are no better" in said.error


@pytest.mark.usefixtures("undrawn")
def test_checks_of_budget_files_warn_and_say_why_a_drift_is_not_known(
    finished: Any, rerun: Rerun, useless: list[str], tmp_path: Path
) -> None:
    report = rerun(finished.copy(tmp_path / "run"), OTHER)
    limits = BudgetFile.model_validate({"own_checks": True, "saliency_drift": {"center_px": 1}})
    verdict = check_report(report, limits)
    (warned,) = [item for item in verdict.warned if item.check.name == "done as the recipe asks"]
    assert warned.check.reason is not None
    assert warned.check.reason.startswith("The gates were NOT steered")
    (drift,) = verdict.failed
    assert drift.check.reason == f"the run went on without its explainer: {WHY}"


@pytest.mark.usefixtures("undrawn")
def test_a_required_explainer_ends_the_run_and_what_was_found_is_kept(
    finished: Any, rerun: Rerun, useless: list[str], tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    with pytest.raises(ExplainerRefused, match=r"explainer\.required is true") as refused:
        rerun(root, OTHER, "explainer.required=true")
    assert refused.value.exit_code == 2
    record = read_run(root).record("selector")
    assert record is not None
    assert record.metrics["refused"]["why"] == WHY
    report = rerun(root, OTHER)
    assert reused(report) == ["classifier", "predictor", "selector"]
    assert useless == ["selector"]


@pytest.mark.usefixtures("undrawn", "useless")
def test_where_nothing_but_explanations_ranks_channels_the_run_ends(
    finished: Any, rerun: Rerun, tmp_path: Path
) -> None:
    with pytest.raises(ExplainerRefused, match=r"class_weight is 0, so nothing but explanations ranks the channels"):
        rerun(finished.copy(tmp_path / "run"), OTHER, "gates.class_weight=0")


@pytest.mark.usefixtures("undrawn", "useless")
def test_a_run_that_is_not_steered_goes_on_without_the_measure_of_drift(
    finished: Any, rerun: Rerun, tmp_path: Path
) -> None:
    report = rerun(finished.copy(tmp_path / "run"), OTHER, "gates.steer=magnitude", "finetune.steer_weight=0.1")
    assert report.gates is not None
    assert (report.gates.steer, report.gates.steer_asked) == ("magnitude", None)
    assert report.verdict.notes == (f"Explanations were NOT compared: no drift was measured, and {WHY}.",)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("error", [ExplainerRefused("it is no better than a constant"), TrainingError("it diverged")])
def test_a_predictor_that_failed_spares_the_selector(
    finished: Any, rerun: Rerun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_arguments: Any) -> Iterator[None]:
        raise error

    monkeypatch.setattr("slimsight.deploy.run.stages.learn.learn_predictor", fail)
    report = rerun(finished.copy(tmp_path / "run"), "explainer.predictor.epochs=2")
    assert reused(report) == ["classifier"]
    assert report.explainer is not None
    assert (report.explainer.used, report.explainer.stage, report.explainer.reason) == (False, "predictor", str(error))
    assert report.gates is not None
    assert report.gates.steer == "none"


@pytest.mark.usefixtures("undrawn")
def test_explanations_that_are_all_the_same_do_not_steer_and_are_compared(
    finished: Any, rerun: Rerun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise ExplainerRefused("the explainer gives all images the same explanation")

    monkeypatch.setattr("slimsight.deploy.run.stages.learn.to_targets", refuse)
    root = finished.copy(tmp_path / "run")
    with open_run(root) as run:
        run.forget("targets")
    report = rerun(root)
    assert report.gates is not None
    assert (report.gates.steer, report.gates.steer_asked) == ("none", "rbf")
    assert report.saliency is not None
    assert report.saliency.center_drift_px >= 0
    assert report.verdict.notes is not None
    assert "all images the same explanation" in report.verdict.notes[0]
    # A selector that has to be learned again is not judged by what a later stage said of the one before.
    (root / "stages" / "selector" / "selector.safetensors").write_bytes(b"")
    assert "selector" not in reused(rerun(root))
    record = read_run(root).record("selector")
    assert record is not None
    assert "refused" not in record.metrics


def test_gates_that_do_not_converge_are_selected_by_their_scores(
    finished: Any, rerun: Rerun, notes: Any, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    report: Report = rerun(root, "gates.steps=20", "gates.lr=1e-4", progress=notes)
    assert report.gates is not None
    assert report.gates.converged is False
    assert (report.gates.steps, report.gates.extension) == (40, 20)
    assert report.gates.steer == "rbf"
    assert report.budget.macs_used is not None
    assert 0.9 < report.budget.macs_used <= 1
    assert report.verdict.passed
    assert report.verdict.notes is not None
    (note,) = report.verdict.notes
    assert note.startswith(
        "The gates did NOT reach the budget by themselves (the gates did not converge in 40 steps: R_res is 0.69"
    )
    assert any("they go on for up to 20 steps" in line for line in notes.lines)
    text = (root / "report.md").read_text(encoding="utf-8")
    assert note in text[: text.index("## ")]
    assert "did **not** converge" in text
    assert "40 steps (20 of them an extension)" in text
    assert reused(rerun(root, "gates.steps=20", "gates.lr=1e-4")) == STAGES
