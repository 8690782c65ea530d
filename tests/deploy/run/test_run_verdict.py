"""What a run says of its accuracy: exit code, terminal, page, report.json; and the budget file that follows the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.progress import SILENT
from slimsight.compress.training import logits_of
from slimsight.deploy.report import read_report
from slimsight.deploy.report.shares import wilson
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("undrawn")

STARVED = ("finetune.epochs=0", "finetune.recalibrate_batches=0", "budget.macs=0.1", "export.formats=[onnx]")
JUDGED = "checks.accuracy_drop=2%"


def options(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_a_starved_run_fails_and_its_page_begins_with_why(
    say: Callable[..., Any], tiny: Path, finished: Any, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    starved = options("gates.steer=magnitude", *STARVED, JUDGED)
    said = say("run", tiny, "--out", root, "--reuse", finished.root, *starved)
    assert said.code == 1
    report = read_report(root / "report.json")
    assert report.verdict.accuracy_judged is True
    names = [check.name for check in report.verdict.failed]
    assert names[0] == "validation accuracy drop"
    lost = 100 * (report.original.val_accuracy - report.slim.val_accuracy)
    assert lost > 2
    why = [
        f"validation accuracy drop: {lost:.2f} points",
        "channels were ranked by weight magnitude: learn gates instead",
        "the slim model was not finetuned: set finetune.epochs above 0",
        "of the MACs are kept: raise budget.macs",
    ]
    title, verdict = (root / "report.md").read_text(encoding="utf-8").split("\n\n")[:2]
    assert title.startswith("# ")
    assert verdict.startswith("**FAILED**: ")
    page = (root / "report.html").read_text(encoding="utf-8")
    first = page[page.index("<h1") : page.index('<p class="about">')]
    assert "FAILED" in first
    for words in why:
        assert words in verdict
        assert words in first
    assert "FAILED validation accuracy drop: " in said.out
    assert "what to change: channels were ranked by weight magnitude" in said.out


def test_the_same_run_with_accuracy_measured_only_passes_and_says_that_it_was_not_judged(
    say: Callable[..., Any], tiny: Path, finished: Any, tmp_path: Path
) -> None:
    """No stage runs again: checks decide the verdict, not a result; and recipe.yaml says what was asked last."""
    root = tmp_path / "run"
    starved = options("gates.steer=magnitude", *STARVED, JUDGED)
    assert say("run", tiny, "--out", root, "--reuse", finished.root, *starved).code == 1
    said = say("run", tiny, "--out", root, *starved, "--no-accuracy-check")
    assert said.code == 0, said.err
    report = read_report(root / "report.json")
    assert all(stage.reused for stage in report.stages)
    assert report.verdict.accuracy_judged is False
    unjudged = "ccuracy was measured, not judged"
    for text in (said.out, (root / "report.md").read_text(encoding="utf-8"), (root / "report.html").read_text()):
        assert unjudged in text
    assert load_recipe(root / "recipe.yaml").checks.accuracy_drop is None
    assert read_run(root).damage("recipe") is None

    (tmp_path / "budget.yaml").write_text("own_checks: true\n", encoding="utf-8")
    said = say("check", root, "--budget", tmp_path / "budget.yaml")
    assert said.code == 0
    assert "warned  accuracy judged by the run" in said.out


def test_a_budget_file_of_own_checks_follows_the_runs_budget(
    say: Callable[..., Any], finished: Any, tmp_path: Path
) -> None:
    """The run kept 50 % of the MACs: a file that says so in numbers has to be changed with it, own_checks has not."""
    budget = tmp_path / "budget.yaml"
    budget.write_text("own_checks: true\n", encoding="utf-8")
    said = say("check", finished.root, "--budget", budget)
    assert said.code == 0
    assert f"at most {finished.report.budget.macs_max / 1e6:.2f} M" in said.out
    onnx = finished.root / "slim/model.onnx"
    said = say("check", onnx, "--budget", budget)
    assert said.code == 1
    assert "an ONNX file has no verdict of its own: check the run that made it, or remove the line" in said.out


def test_agreement_is_counted_over_the_validation_images(finished: Any, cache: Path) -> None:
    session = Session(finished.recipe, read_run(finished.root), SILENT, cache)
    batches = session.plain(session.splits.val)
    before, after = (logits_of(model, batches).argmax(1) for model in (session.classifier(), session.slim()[0]))
    found = finished.report.agreement
    assert found.images == len(before) == 143
    assert found.top1 == float((before == after).sum()) / 143
    labels = [int(label) for label in session.splits.val.labels]
    assert finished.report.data.val_majority == max(labels.count(label) for label in set(labels)) / 143
    content = json.loads((finished.root / "report.json").read_text())
    low, high = wilson(found.top1, 143)
    assert content["agreement"] == {"top1": found.top1, "images": 143, "low": low, "high": high}
    text = (finished.root / "report.md").read_text(encoding="utf-8")
    assert f"predict the same class on {100 * found.top1:.2f} % of 143 validation images (95 % interval: " in text
