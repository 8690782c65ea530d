"""The recipes for ImageNet on a generated miniature of its layout: what a user would run, made small."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimsight.compress.errors import PruningError
from slimsight.compress.files.sealed import read_sealed
from slimsight.compress.progress import SILENT
from slimsight.compress.training import Learning
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import RunDir
from slimsight.deploy.settings.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted((ROOT / "configs" / "imagenet").glob("*.yaml"))
KEPT = {"resnet34": 0.56, "resnet50": 0.434, "resnet101": 0.432, "mobilenet_v2": 0.71}
CLASSES = 3
FEWER = ("explainer.predictor.epochs=2", "explainer.selector.epochs=2")
SMALLER = ("data.image_size=96", "data.resize=112", "gates.steps=30", "gates.lr=0.4")
Small = Callable[..., Recipe]


@pytest.fixture(scope="module")
def miniatures() -> Any:
    """The benchmark that runs all of them to their reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("imagenet_recipes")


@pytest.fixture(scope="module")
def imagenet(miniatures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    assert miniatures.make_images(root) == CLASSES * 46
    return root


@pytest.fixture
def small(imagenet: Path, miniatures: Any) -> Small:
    """``small("resnet34", "a.b=c")``: the recipe on the miniature, its weights written when they are asked for."""

    def recipe(name: str, *overrides: str, learned: bool = False) -> Recipe:
        weights = miniatures.make_weights(name, imagenet, learned=learned)
        found: Recipe = miniatures.miniature(name, imagenet, weights, *overrides)
        return found

    return recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_are_the_papers(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.model.name == f"torchvision:{path.stem}"
    assert (recipe.data.decode, recipe.data.resize, recipe.data.image_size) == ("on_the_fly", 256, 224)
    assert recipe.budget.macs is not None
    assert (recipe.budget.macs.value, recipe.budget.macs.relative) == (pytest.approx(KEPT[path.stem]), True)
    assert recipe.explainer.images == recipe.gates.images == pytest.approx(0.1)
    assert (recipe.explainer.predictor.epochs, recipe.explainer.selector.epochs) == (100, 5)
    assert (recipe.gates.steer_weight, recipe.gates.cost_weight, recipe.gates.steps) == (0.5, 2.0, 100_000)
    mobile = path.stem == "mobilenet_v2"
    assert (recipe.finetune.epochs, recipe.finetune.lr) == (100, 0.05 if mobile else 0.1)
    assert recipe.finetune.weight_decay == (4e-5 if mobile else 1e-4)


def test_there_is_a_recipe_for_every_network_of_the_paper() -> None:
    assert {path.stem for path in RECIPES} == set(KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_a_recipe_finds_its_images_and_its_weights(small: Small, tmp_path: Path, name: str) -> None:
    session = Session(small(name), RunDir(tmp_path / "run", writable=False), SILENT, tmp_path / "cache")
    splits = session.splits
    assert (len(splits.train), len(splits.val), len(splits.test())) == (117, 3, 18)
    assert np.bincount(session.explainer_images().labels).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(session.explainer_images().images.order, session.gate_images().images.order)
    given = torch.load(session.recipe.model.weights, weights_only=True)
    assert session.new_classifier()[0].net.state_dict().keys() == given.keys()


def test_a_recipe_learns_from_images_that_are_decoded_on_the_way(
    small: Small, miniatures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the slim model: the benchmark goes on to exports and report, which are as those of any run."""

    def enough(_session: Session, _learning: Learning) -> None:
        raise PruningError("far enough")

    monkeypatch.setattr("slimsight.deploy.run.stages.prove.export", enough)
    recipe, out = small("mobilenet_v2", *miniatures.SHORT, *FEWER, *SMALLER, learned=True), tmp_path / "run"
    with pytest.raises(PruningError, match="far enough"):
        run_recipe(recipe, out, name="mobilenet_v2.yaml", cache=tmp_path / "cache")
    metrics = {path.parent.name: read_sealed(path)["metrics"] for path in out.glob("stages/*/done.json")}
    assert metrics["surgery"]["slim"]["macs"] <= KEPT["mobilenet_v2"] * metrics["surgery"]["original"]["macs"]
    reading = metrics["finetune"]["reading"]
    assert reading["workers"] == 2
    assert reading["images"] >= 7 * 16
    assert 0 < reading["waiting"] < 1
    fewer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 1})})
    with pytest.raises(PruningError, match="far enough"):
        run_recipe(fewer, out, name="mobilenet_v2.yaml", cache=tmp_path / "cache")
    again = {path.parent.name: read_sealed(path)["metrics"] for path in out.glob("stages/*/done.json")}
    assert again == metrics, "how many workers decode changes nothing"
