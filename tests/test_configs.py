from pathlib import Path

import pytest

from slimsight.compress.amounts import Amount
from slimsight.deploy.settings.recipe import dump_recipe, load_recipe

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ABLATIONS = sorted((CONFIGS / "ablations").glob("*.yaml"))
RECIPES = [*sorted(CONFIGS.glob("*.yaml")), *ABLATIONS, *sorted((CONFIGS / "imagenet").glob("*.yaml"))]


def test_the_recipes_that_the_readme_names_are_there() -> None:
    names = {path.name for path in RECIPES}
    assert names >= {"digits.yaml", "cifar10_resnet20.yaml", "cifar10_resnet56.yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_being_written(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_ablations_differ_from_the_study_in_gates_and_in_how_long_they_finetune() -> None:
    """So that its classifier, predictor and selector serve them, and so that they can be compared."""
    learned = {"gates": True, "checks": True, "finetune": True, "export": True, "explainer": {"varsal"}}
    study = load_recipe(CONFIGS / "cifar10_resnet20.yaml").model_dump(exclude=learned)
    recipes = {path.stem: load_recipe(path) for path in ABLATIONS}
    assert all(recipe.model_dump(exclude=learned) == study for recipe in recipes.values())
    full = recipes["full"]
    assert {
        name: recipe.gates.model_dump().items() - full.gates.model_dump().items() for name, recipe in recipes.items()
    } == {
        "full": set(),
        "ce_only": {("steer", "none")},
        "interpretation_rbf": {("class_weight", 0.0)},
        "interpretation_realx": {("class_weight", 0.0), ("steer", "realx")},
    }
    assert all(recipe.finetune == full.finetune for recipe in recipes.values())


def test_the_demo_needs_no_file_and_cuts_to_half() -> None:
    recipe = load_recipe(CONFIGS / "digits.yaml")
    assert (recipe.data.source, recipe.data.path, recipe.model.weights) == ("digits", None, None)
    assert recipe.budget.macs == Amount(0.5, relative=True)
    assert recipe.data.flip is False


@pytest.mark.parametrize("depth", [20, 56])
def test_the_cifar_recipes_find_their_files(depth: int, images_dir: Path, weights_dir: Path) -> None:
    recipe = load_recipe(CONFIGS / f"cifar10_resnet{depth}.yaml")
    assert recipe.model.name == f"resnet{depth}"
    expected = {
        recipe.data.path: images_dir / "cifar10-jpeg.tar.xz",
        recipe.data.val_list: images_dir / "cifar10-jpeg.val.txt",
        recipe.model.weights: weights_dir / f"resnet{depth}_cifar10_jpeg.safetensors",
    }
    for named, file in expected.items():
        assert isinstance(named, Path)
        assert named.samefile(file)
