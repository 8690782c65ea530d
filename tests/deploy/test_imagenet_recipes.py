"""The recipes for ImageNet on a generated miniature of its layout: what a user would run, made small."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

from compress.amounts import Amount
from compress.progress import SILENT
from deploy.pipeline import run_recipe
from deploy.recipe import Recipe, load_recipe
from deploy.run_dir import RunDir
from deploy.session import Session
from deploy.stages.preflight import preflight

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "imagenet").glob("*.yaml"))
KEPT = {"resnet34": 0.56, "resnet50": 0.434, "resnet101": 0.432, "mobilenet_v2": 0.71}
SIDE, CLASSES = 32, 3
Small = Callable[..., Recipe]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/<wnid>/*.JPEG, a flat val/ and its list, and weights for each network beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        layout = importlib.import_module("imagenet_layout")
    root = tmp_path_factory.mktemp("imagenet")
    made = layout.make_layout(root, classes=CLASSES, images=40, val=6, pictures=24, sides=(40, 90))
    assert made == CLASSES * 46
    return root


@pytest.fixture
def small(imagenet: Path) -> Small:
    """``small("resnet34", "a.b=c")``: the recipe on the miniature, its weights written when they are asked for."""

    def recipe(name: str, *overrides: str) -> Recipe:
        weights = imagenet / f"{name}.pth"
        if not weights.exists():
            torch.manual_seed(0)
            torch.save(models.get_model(name, weights=None, num_classes=CLASSES).state_dict(), weights)
        given = (
            f"data.path={imagenet}",
            f"data.test_labels={imagenet / 'val.txt'}",
            f"data.image_size={SIDE}",
            "data.resize=36",
            "data.workers=2",
            f"model.weights={weights}",
            "precision=32-true",
            "threads=1",
        )
        return load_recipe(ROOT / "configs" / "imagenet" / f"{name}.yaml", [*given, *overrides])

    return recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_are_the_papers(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.model.name == f"torchvision:{path.stem}"
    assert (recipe.data.decode, recipe.data.resize, recipe.data.image_size) == ("on_the_fly", 256, 224)
    assert recipe.budget.macs == Amount(KEPT[path.stem], relative=True)
    assert recipe.explainer.images == recipe.gates.images == pytest.approx(0.1)
    assert (recipe.explainer.predictor.epochs, recipe.explainer.selector.epochs) == (100, 5)
    assert (recipe.gates.steer_weight, recipe.gates.cost_weight, recipe.gates.steps) == (0.5, 2.0, 100_000)
    mobile = path.stem == "mobilenet_v2"
    assert (recipe.finetune.epochs, recipe.finetune.lr) == (100, 0.05 if mobile else 0.1)
    assert recipe.finetune.weight_decay == (4e-5 if mobile else 1e-4)


def test_there_is_a_recipe_for_every_network_of_the_paper() -> None:
    assert {path.stem for path in RECIPES} == set(KEPT)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "mobilenet_v2"])
def test_a_recipe_passes_what_a_run_checks_first(small: Small, tmp_path: Path, name: str) -> None:
    session = Session(small(name), RunDir(tmp_path / "run", writable=False), SILENT, tmp_path / "cache")
    known = preflight(session)
    assert known.limits["macs"] == pytest.approx(KEPT[name] * known.macs, rel=1e-3)
    assert known.smallest < known.limits["macs"]
    splits = session.splits
    assert (len(splits.train), len(splits.val), len(splits.test())) == (117, 3, 18)
    assert np.bincount(session.explainer_images().labels).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(session.explainer_images().images.order, session.gate_images().images.order)


def test_a_recipe_runs_to_its_report(small: Small, tmp_path: Path) -> None:
    quick = (
        "explainer.images=60%",
        "gates.images=60%",
        "explainer.predictor={epochs: 1, lr: 1e-3, batch_size: 16}",
        "explainer.selector={epochs: 2, lr: 1e-3, batch_size: 16}",
        "gates.steps=20",
        "gates.batch_size=16",
        "gates.compile=false",
        "finetune={epochs: 1, batch_size: 16, recalibrate_batches: 2}",
        "export.formats=[onnx]",
        "latency={rounds: 20, warmup_seconds: 0.05, sessions: 2}",
    )
    recipe = small("resnet34", *quick)
    report = run_recipe(recipe, tmp_path / "run", name="resnet34.yaml", cache=tmp_path / "cache")
    assert report.exactness.gated_vs_slim_max_rel is not None
    assert report.exactness.gated_vs_slim_max_rel <= 1e-5
    assert report.slim.macs <= KEPT["resnet34"] * report.original.macs
    assert all(row.passed for row in report.parity)
    done: dict[str, Any] = json.loads((tmp_path / "run/stages/finetune/done.json").read_text())
    reading = done["metrics"]["reading"]
    assert reading["workers"] == 2
    assert reading["images"] >= 7 * 16
    assert 0 < reading["waiting"] < 1
    again = run_recipe(
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 1})}),
        tmp_path / "run",
        name="resnet34.yaml",
        cache=tmp_path / "cache",
    )
    assert all(stage.reused for stage in again.stages)
