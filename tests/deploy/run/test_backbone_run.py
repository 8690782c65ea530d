"""A run that trains a backbone's weights under a new head."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimsight.compress.errors import ModelError
from slimsight.deploy.report import Report
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import load_recipe

RECIPE = """
threads: 1
data: {source: digits, image_size: 16, flip: false, crop_padding: 0}
model: {name: "tiny.py:tiny", weights: backbone.safetensors, head: new, train: {epochs: 2, batch_size: 64}}
explainer: {enabled: false}
gates: {steer: magnitude}
budget: {macs: 60%}
checks: {accuracy_drop: null}
finetune: {epochs: 0}
latency: {rounds: 20, warmup_seconds: 0.1}
"""


@pytest.fixture
def project(tiny: Path, finished: Any, tmp_path: Path) -> Path:
    """A model, the weights of its backbone under a head of three classes, and a recipe for ten."""
    shutil.copy(tiny.with_name("tiny.py"), tmp_path / "tiny.py")
    tensors = load_file(finished.root / "stages/classifier/model.safetensors")
    heads = {"net.7.weight": torch.zeros(3, 32), "net.7.bias": torch.zeros(3)}
    save_file({**tensors, **heads}, tmp_path / "backbone.safetensors")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(project: Path, *overrides: str) -> Report:
    recipe = load_recipe(project / "recipe.yaml", overrides)
    return run_recipe(recipe, project / "run", name="recipe.yaml", cache=project / "cache")


def test_a_backbone_is_trained_under_a_new_head_and_the_report_says_how(
    project: Path, undrawn: None, finished: Any
) -> None:
    report = run(project)
    assert report.original.val_accuracy is not None
    assert report.original.val_accuracy > 0.8  # of features that know the digits; from scratch it takes six epochs
    model = report.model
    assert model is not None
    assert model.weights == "backbone.safetensors"
    assert model.backbone is not None
    assert (model.backbone.taken, model.backbone.made) == (30, ("7.bias", "7.weight"))
    assert model.training is not None
    assert report.data is not None
    steps = 2 * (report.data.train // 64)
    assert (model.training.epochs, model.training.steps, model.training.optimizer) == (2, steps, "adamw")
    for page in ("report.md", "report.html"):
        text = " ".join((project / "run" / page).read_text().replace("\N{NO-BREAK SPACE}", " ").split())
        assert "30 tensors from backbone.safetensors, made new: 7.bias, 7.weight" in text.replace("\\", "")
        assert f"trained by this run with AdamW for 2 epochs, {steps} steps" in text
    again = run(project)
    assert all(stage.reused for stage in again.stages)
    longer = run(project, "model.train.epochs=1")
    assert not any(stage.reused for stage in longer.stages)


def test_weights_that_are_no_backbone_of_the_model_are_refused_before_anything_is_trained(project: Path) -> None:
    save_file({"other.weight": torch.ones(3)}, project / "backbone.safetensors")
    with pytest.raises(ModelError, match="hold none of the 30 tensors of the model's backbone"):
        run(project)
    assert not (project / "run/stages/classifier/done.json").exists()


def test_init_writes_a_recipe_that_trains_a_new_head(
    project: Path, say: Callable[..., Any], tmp_path: Path, undrawn: None
) -> None:
    from PIL import Image

    for label, red in (("one", 200), ("two", 20)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (40, 40), (red + number, 90, 90)).save(tmp_path / "images" / label / f"{number}.png")
    model, weights = f"{project / 'tiny.py'}:tiny", project / "backbone.safetensors"
    said = say("init", model, tmp_path / "images", "--weights", weights, "--out", project / "made.yaml")
    assert said.code == 0, said
    assert "the weights are of 3 classes, the images of 2: a new last layer is trained on them first" in said.out
    recipe = load_recipe(project / "made.yaml")
    assert (recipe.model.head, recipe.model.train.optimizer, recipe.data.decode) == ("new", "adamw", "once")
    assert recipe.data.crop_scale == (0.35, 1)
    assert re.search(r"by AdamW; a guess: about \d+ (min|h) \d\d (s|min) on", (project / "made.yaml").read_text())
    three = tmp_path / "images" / "three"
    shutil.copytree(tmp_path / "images" / "one", three)
    said = say("init", model, tmp_path / "images", "--weights", weights, "--out", project / "three.yaml")
    assert said.code == 0, said
    assert load_recipe(project / "three.yaml").model.head == "given"
    flat = say("init", model, three, "--weights", weights, "--out", project / "flat.yaml")
    assert flat.code == 0, flat
    unlabelled = load_recipe(project / "flat.yaml")
    assert (unlabelled.data.labels, unlabelled.finetune.distill, unlabelled.checks.agreement) == ("none", 1, 0.9)
    assert "images to learn from can take away a fifth of the MACs or so" in flat.out
    assert "agreement: 90%" in (project / "flat-budget.yaml").read_text()
    without = say("init", model, three, "--out", project / "no.yaml")
    assert without.code == 2
    assert "images alone are enough to slim a classifier with trained --weights" in without.err
    without = say("init", model, three, "--no-labels", "--out", project / "no.yaml")
    assert without.code == 2
    assert "holds images without class folders, and no --weights are given" in without.err
    forced = say("init", model, tmp_path / "images", "--no-labels", "--weights", weights, "--out", project / "f.yaml")
    assert forced.code == 0, forced
    assert load_recipe(project / "f.yaml").data.labels == "none"
