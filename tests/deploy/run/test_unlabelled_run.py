"""A run on images without labels: it learns from the original, and speaks of agreement with it, never of accuracy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from slimsight.deploy.report import Report, read_report
from slimsight.deploy.report.shares import wilson
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import load_recipe

RECIPE = """
threads: 1
data: {source: image_folder, labels: none, path: photos, image_size: 16, flip: false, crop_padding: 0,
       val_fraction: 0.25}
model: {name: "tiny.py:tiny", weights: trained.safetensors}
explainer: {enabled: false}
gates: {steer: none, steps: 200, lr: 0.12, batch_size: 16}
budget: {macs: 60%}
checks: {agreement: 0.0}
finetune: {epochs: 1, lr: 0.02, batch_size: 16}
latency: {rounds: 20, warmup_seconds: 0.1}
"""


@pytest.fixture
def project(tiny: Path, finished: Any, tmp_path: Path) -> Path:
    """A model with trained weights of ten classes, 200 digits in nested folders, and a recipe."""
    shutil.copy(tiny.with_name("tiny.py"), tmp_path / "tiny.py")
    shutil.copy(finished.root / "stages/classifier/model.safetensors", tmp_path / "trained.safetensors")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for number, grey in enumerate(load_digits().images[:200]):
        folder = tmp_path / "photos" / ("" if number % 2 else "more")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((grey * (255 / 16)).astype(np.uint8)).resize((16, 16)).save(folder / f"{number:03d}.png")
    return tmp_path


def run(project: Path, *overrides: str) -> Report:
    recipe = load_recipe(project / "recipe.yaml", overrides)
    return run_recipe(recipe, project / "run", name="recipe.yaml", cache=project / "cache")


def test_agreement_takes_the_place_of_accuracy(project: Path, undrawn: None, say: Callable[..., Any]) -> None:
    report = run(project)
    assert (report.original.val_accuracy, report.slim.val_accuracy) == (None, None)
    assert (report.original.test_accuracy, report.slim.test_accuracy, report.gated) == (None, None, None)
    assert report.data is not None
    assert (report.data.labels, report.data.train, report.data.val, report.data.test) == ("none", 120, 40, 40)
    assert (report.data.classes, report.data.val_majority) == (10, None)
    found = report.agreement
    assert found is not None
    assert found.test is not None
    assert (found.low, found.high) == wilson(found.top1, 40)
    assert (found.test.low, found.test.high) == wilson(found.test.top1, 40)
    assert found.chance is not None
    assert found.gated is not None
    assert 0.1 <= found.chance < 1
    finetuned = json.loads((project / "run/stages/finetune/done.json").read_text())["metrics"]
    assert finetuned["recalibrated_val_agreement"] >= found.gated - 1e-6  # statistics that agree less are not kept
    (check,) = (check for check in report.verdict.checks if check.name == "agreement with the original")
    assert (check.value, check.limit, check.passed) == (found.top1, 0, True)
    assert (report.verdict.agreement_judged, report.verdict.accuracy_judged) == (True, None)
    assert found.top1 == pytest.approx(finetuned["val_agreement"], abs=1e-6)
    assert finetuned["val_agreement"] >= finetuned["recalibrated_val_agreement"]
    assert (report.statistics is None) == ("taken_back" in finetuned)
    written = json.loads((project / "run/report.json").read_text())
    assert written["slim"]["val_accuracy"] is None
    assert read_report(project / "run/report.json") == report
    for page in ("report.md", "report.html"):
        text = (project / "run" / page).read_text()
        assert "nothing is known of the accuracy of either model" in text
        text = text.replace("nothing is known of the accuracy of either model", "").partition("<summary>The whole")[0]
        text = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>", "", text)
        assert "ccuracy" not in text, re.findall(r".{60}ccuracy.{60}", text)
    for record in (project / "run/stages").glob("*/done.json"):
        assert "accuracy" not in record.read_text(), record
    (project / "budget.yaml").write_text("agreement: 100.0%\naccuracy: {warn: 1%}\nown_checks: true\n")
    said = say("check", project / "run", "--budget", project / "budget.yaml")
    assert "test agreement with the original" in said.out
    assert "limit agreement instead" in said.out.replace("\n", " ")
    assert "accuracy judged by the run" not in said.out
    assert say("trust", project / "run", "--tests", "roar").code == 2


def test_finetuning_that_agrees_less_is_taken_back(project: Path, undrawn: None) -> None:
    report = run(project, "gates.steer=magnitude", "finetune.lr=0.5", "checks.agreement=100%", "budget.macs=80%")
    finetuned = json.loads((project / "run/stages/finetune/done.json").read_text())["metrics"]
    assert finetuned["taken_back"]
    assert report.agreement is not None
    assert report.agreement.top1 == pytest.approx(finetuned["val_agreement"], abs=1e-6)
    assert finetuned["val_agreement"] == finetuned["recalibrated_val_agreement"]
    assert finetuned["statistics"]["running_val_agreement"] < finetuned["val_agreement"]
    assert report.statistics is None
    (failed,) = (check for check in report.verdict.failed if check.name == "agreement with the original")
    assert failed.remedy is not None
    assert "finetuning agreed less and was taken back: lower finetune.lr (now 0.5)" in failed.remedy


def test_a_run_that_agrees_too_little_fails_and_says_by_how_much(project: Path, undrawn: None) -> None:
    report = run(project, "checks.agreement=100%", "budget.macs=15%", "finetune.epochs=0", "gates.steer=uniform")
    found = report.agreement
    assert found is not None
    assert found.top1 < 1
    (failed,) = report.verdict.failed
    assert (failed.name, failed.value, failed.limit) == ("agreement with the original", found.top1, 1)
    assert failed.reason is not None
    assert failed.remedy is not None
    assert "of 40 validation images, 95 % interval " in failed.reason
    assert "; by chance " in failed.reason
    assert "set finetune.epochs above 0" in failed.remedy
    assert "more images to learn from help most" in failed.remedy
    unjudged = run(project, "checks.agreement=null", "budget.macs=15%", "finetune.epochs=0", "gates.steer=uniform")
    assert (unjudged.verdict.passed, unjudged.verdict.agreement_judged) == (True, False)
    assert "Agreement with the original was measured, not judged" in (project / "run/report.md").read_text()
    assert all(stage.reused for stage in unjudged.stages)


def test_an_explainer_steers_without_labels(project: Path, undrawn: None) -> None:
    report = run(
        project,
        "explainer={predictor: {epochs: 20, lr: 3e-3, batch_size: 16}, selector: {epochs: 12, batch_size: 16}}",
        "gates.steer=rbf",
        "finetune.epochs=0",
    )
    assert report.saliency is not None
    assert report.saliency.maps is not None
    assert report.saliency.maps.images == 40
    assert report.gates is not None
    assert report.gates.history is not None
    assert report.gates.history.steer is not None
