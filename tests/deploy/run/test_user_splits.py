"""Runs on a user's folders as he brings them: without test images, with broken ones, and with other names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from slimsight.deploy.report import read_report
from slimsight.deploy.report.schema import Report
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import load_recipe

COUNTS = {"train": 24, "val": 8, "test": 6}
RECIPE = """
threads: 1
data: {source: image_folder, path: images, image_size: 16, flip: false, crop_padding: 0}
model: {name: "tiny.py:tiny", train: {epochs: 1, lr: 0.1, batch_size: 16}}
explainer: {enabled: false}
gates: {steer: magnitude}
budget: {macs: 60%}
finetune: {epochs: 1, lr: 0.02, batch_size: 16}
latency: {rounds: 20, warmup_seconds: 0.1}
"""
Run = Callable[..., Report]


def paint(root: Path, splits: dict[str, str]) -> None:
    """Two classes of noisy squares, reddish and greenish, in the folders ``splits``."""
    rng = np.random.default_rng(0)
    for split, folder in splits.items():
        for channel, label in enumerate(("a", "b")):
            (root / folder / label).mkdir(parents=True)
            for number in range(COUNTS[split]):
                pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(root / folder / label / f"{number:02d}.png")


@pytest.fixture
def project(tiny: Path, tmp_path: Path) -> Path:
    """A folder with a model and a recipe for ``images``."""
    shutil.copy(tiny.with_name("tiny.py"), tmp_path / "tiny.py")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def run(project: Path, undrawn: None) -> Run:
    def run_(*overrides: str) -> Report:
        recipe = load_recipe(project / "recipe.yaml", overrides)
        return run_recipe(recipe, project / "run", name="recipe.yaml", cache=project / "cache")

    return run_


@pytest.mark.parametrize("decode", ["once", "on_the_fly"])
@pytest.mark.parametrize("names", [{"train": "train", "val": "val"}, {"train": "Training", "val": "validation"}])
def test_a_folder_without_test_images_has_no_test_accuracy(
    project: Path, run: Run, say: Callable[..., Any], names: dict[str, str], decode: str
) -> None:
    paint(project / "images", names)
    overrides = () if decode == "once" else ("data.decode=on_the_fly", "data.workers=0")
    report = run(*overrides)
    assert (report.original.test_accuracy, report.slim.test_accuracy) == (None, None)
    assert report.data is not None
    assert (report.data.train, report.data.val, report.data.test) == (48, 16, 0)
    written = json.loads((project / "run/report.json").read_text())
    assert (written["slim"]["test_accuracy"], written["data"]["test"]) == (None, 0)
    assert read_report(project / "run/report.json") == report
    for page in ("report.md", "report.html"):
        text = (project / "run" / page).read_text()
        assert "no test images" in text
        assert "There are no test images: accuracies are those of validation images." in text
    (project / "budget.yaml").write_text("accuracy: {fail: 1%}\naccuracy_drop: 50%\n")
    said = say("check", project / "run", "--budget", project / "budget.yaml")
    assert said.code == 0
    assert "validation accuracy (no test images)" in said.out
    assert "validation accuracy drop (no test images)" in said.out


def test_test_images_that_are_added_later_are_evaluated(project: Path, run: Run) -> None:
    paint(project / "images", {"train": "train", "val": "val"})
    assert run().slim.test_accuracy is None
    paint(project / "images", {"test": "test"})
    report = run()
    assert report.data is not None
    assert report.data.test == 12
    assert report.slim.test_accuracy is not None
    assert {stage.name for stage in report.stages if not stage.reused} == {"judgement"}


def test_val_is_the_test_set_where_the_recipe_says_so(project: Path, run: Run) -> None:
    paint(project / "images", {"train": "train", "val": "val"})
    report = run("data.val_is_test=true")
    assert report.data is not None
    assert (report.data.train, report.data.val, report.data.test) == (44, 4, 16)
    assert report.slim.test_accuracy is not None
    validated = run()
    assert validated.slim.test_accuracy is None
    assert not any(stage.reused for stage in validated.stages)


def test_init_lists_broken_images_and_the_run_reports_them(
    project: Path, say: Callable[..., Any], undrawn: None
) -> None:
    paint(project / "images", {split: split for split in COUNTS})
    broken = [f"train/a/{number:02d}.png" for number in range(11)] + ["test/b/03.png"]
    for name in broken:
        (project / "images" / name).write_bytes(b"<html>404</html>")
    model, images, out = f"{project / 'tiny.py'}:tiny", project / "images", project / "made.yaml"
    said = say("init", model, images, "--out", out)
    assert said.code == 2
    assert "12 images in" in said.err
    assert "and 2 more" in said.err
    assert "--skip-broken" in said.err
    assert not out.exists()
    said = say("init", model, images, "--out", out, "--skip-broken")
    assert said.code == 0, said.err
    assert "left out, because they cannot be read: test/b/03.png (not an image)" in said.out
    assert yaml.safe_load(out.read_text())["data"]["skip"] == "made-skip.txt"
    quick = ("model.train.epochs=1", "finetune.epochs=1", "gates.steer=magnitude", "explainer.enabled=false")
    report = run_recipe(load_recipe(out, quick), project / "run", name="made.yaml", cache=project / "cache")
    assert report.data is not None
    assert (report.data.train, report.data.val, report.data.test) == (37, 16, 11)
    assert (report.data.skipped, report.data.skipped_names) == (12, tuple(sorted(broken)[:10]))
    for page in ("report.md", "report.html"):
        text = (project / "run" / page).read_text()
        assert "12 left out by data.skip (test/b/03.png, train/a/00.png" in text
        assert "and 2 more" in text
    (project / "images/val/a/00.png").write_bytes(b"")
    said = say("run", out, "--out", project / "run")
    assert said.code == 2
    assert "val/a/00.png is empty (0 bytes)" in said.err


@pytest.mark.parametrize("decode", ["once", "on_the_fly"])
def test_a_run_names_all_broken_images(project: Path, say: Callable[..., Any], decode: str) -> None:
    paint(project / "images", {split: split for split in COUNTS})
    names = ("train/a/01.png", "val/b/02.png", "test/b/03.png")
    for name in names:
        (project / "images" / name).write_bytes(b"<html>404</html>")
    options = () if decode == "once" else ("--set", "data.decode=on_the_fly", "--set", "data.workers=0")
    said = say("run", project / "recipe.yaml", "--out", project / "run", *options)
    assert said.code == 2
    assert [name in said.error for name in names] == [True] * 3


def test_a_broken_test_image_ends_the_run_before_anything_is_learned(project: Path, say: Callable[..., Any]) -> None:
    paint(project / "images", {split: split for split in COUNTS})
    (project / "images/test/a/00.png").write_bytes(b"<html>404</html>")
    said = say("run", project / "recipe.yaml", "--out", project / "run")
    assert said.code == 2
    assert "test/a/00.png is not an image" in said.error
    assert not list((project / "run/stages").glob("*/done.json"))
