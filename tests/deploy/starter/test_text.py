from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from slimsight.compress.errors import ModelError
from slimsight.deploy.schemas import schema_file
from slimsight.deploy.settings.recipe import Recipe, load_recipe
from slimsight.deploy.starter import ImageFacts, examine_images, examine_model, to_recipe
from slimsight.deploy.starter.schedule import Effort, Schedule

MODELS = """
from torch import nn

def features(width):
    return [nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()]

def any_size(classes):
    return nn.Sequential(*features(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))

def only_48(classes):
    return nn.Sequential(*features(8), nn.Flatten(), nn.Linear(8 * 12 * 12, classes))

def ten():
    return any_size(10)
"""


@pytest.fixture
def images(tmp_path: Path) -> ImageFacts:
    """30 and 6 images of 70 pixels, two classes that differ in colour."""
    for name, count, red in (("one", 30, 200), ("two", 6, 20)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (70, 80), (red + number, 90, 90)).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "models.py").write_text(MODELS)
    return examine_images(tmp_path / "images", cache=tmp_path / "cache")


def test_a_model_that_takes_one_size_decides_the_size(images: ImageFacts, tmp_path: Path) -> None:
    seen = examine_model(f"{tmp_path / 'models.py'}:only_48", images)
    assert (images.size, seen.size, seen.refused_sizes) == (64, 48, ("64",))
    starter = to_recipe(images, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
    (tmp_path / "recipe.yaml").write_text(starter.text)
    assert load_recipe(tmp_path / "recipe.yaml").data.image_size == 48
    assert "64 px: the model does not take them" in starter.text.replace("\n  # ", " ")


def test_small_images_are_distilled_and_photographs_are_not(images: ImageFacts, tmp_path: Path) -> None:
    seen = examine_model(f"{tmp_path / 'models.py'}:any_size", images)
    written = {}
    for side in (96, 64):
        starter = to_recipe(
            images, replace(seen, size=side), out=tmp_path / "recipe.yaml", memory=None, schema=schema_file
        )
        (tmp_path / "recipe.yaml").write_text(starter.text)
        recipe = load_recipe(tmp_path / "recipe.yaml")
        written[side] = (recipe.data.crop_scale, recipe.data.crop_padding, recipe.finetune.distill)
    assert written == {96: (None, 96 // 8, 0), 64: (None, 64 // 8, 0.5)}


def test_a_model_with_other_logits_than_classes_is_refused(images: ImageFacts, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model returns 10 logits for 2 classes of the data"):
        examine_model(f"{tmp_path / 'models.py'}:ten", images)


def test_weights_that_know_nothing_of_these_classes_are_warned_of(images: ImageFacts, tmp_path: Path) -> None:
    name = f"{tmp_path / 'models.py'}:any_size"
    seen = examine_model(name, images)
    assert seen.choice.accuracy is None
    file = tmp_path / "other.pth"
    torch.save({k: torch.zeros_like(v) for k, v in _states(name).items()}, file)
    seen = examine_model(name, images, weights=file)
    seen = replace(seen, choice=replace(seen.choice, accuracy=0.4))
    starter = to_recipe(images, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
    assert any(line.startswith("  WARNING: no better than chance") for line in starter.messages)
    assert any("uneven: 'one' has 5 times the images of 'two'" in line for line in starter.messages)
    text = starter.text.replace("\n  # ", " ")
    assert "uneven: 'one' has 5 times the images of 'two'" in text
    assert "weights: other.pth" in text


def _states(name: str) -> dict[str, torch.Tensor]:
    from slimsight.compress.config import ModelConfig
    from slimsight.compress.models import build_net

    return dict(build_net(ModelConfig(name=name), 2).state_dict())


def test_schedules_follow_the_number_of_images_and_the_memory() -> None:
    few, some, many = (Schedule.of(count, 10**5, None) for count in (40, 3068, 45_000))
    assert (few.batch, few.train_epochs, few.gate_images, few.finetune_epochs) == (8, 60, None, 30)
    # Photographs of clothing, EfficientNet-Lite0: as many as there are in benchmarks/clothing.py.
    assert (some.batch, some.gate_batch, some.finetune_epochs, some.finetune_lr) == (16, 32, 9, 0.02)
    assert (many.batch, many.gate_batch, many.train_epochs, many.gate_images) == (128, 128, 10, 10_000)
    assert many.finetune_lr == 0.05
    tight = Schedule.of(45_000, 10**7, 3 * 10**9)
    assert (tight.batch, tight.gate_batch) == (64, 64)  # 1.5 x 64 x 10 MB are just below 35 % of 3 GB
    tighter = Schedule.of(3068, 10**8, 5 * 10**9)  # the gates see as many images in smaller batches
    assert (tighter.gate_batch, tighter.gate_steps, some.gate_steps) == (8, 1200, 300)


def test_schedules_follow_the_time_to_spend() -> None:
    quick, usual, thorough = (Schedule.of(3068, 10**5, None, effort) for effort in ("quick", "default", "thorough"))
    assert [each.steer for each in (quick, usual, thorough)] == ["taylor", "none", "rbf"]
    assert [each.finetune_epochs for each in (quick, usual, thorough)] == [5, 9, 18]
    assert [each.gate_steps for each in (usual, thorough)] == [300, 1000]
    assert [each.explained for each in (quick, usual, thorough)] == [False, False, True]
    assert Schedule.of(199, 10**5, None, "thorough").steer == "none"


def test_recipes_follow_the_time_to_spend(images: ImageFacts, tmp_path: Path) -> None:
    seen = examine_model(f"{tmp_path / 'models.py'}:any_size", images)
    plenty = replace(images, splits={**images.splits, "train": 3000})

    def recipe(effort: Effort) -> Recipe:
        out = tmp_path / "recipe.yaml"
        starter = to_recipe(plenty, seen, out=out, memory=None, schema=schema_file, effort=effort)
        out.write_text(starter.text)
        assert ("'init --thorough' adds an explainer that steers the gates" in starter.text.replace("\n  # ", " ")) == (
            effort != "thorough"
        )
        return load_recipe(out)

    quick, usual, thorough = recipe("quick"), recipe("default"), recipe("thorough")
    assert [each.gates.steer for each in (quick, usual, thorough)] == ["taylor", "none", "rbf"]
    assert [each.explainer.enabled for each in (quick, usual, thorough)] == [False, False, True]
    assert {each.gates.scope for each in (quick, usual, thorough)} == {"auto"}


def test_a_small_set_is_told_how_many_images_would_do(images: ImageFacts, tmp_path: Path) -> None:
    seen = examine_model(f"{tmp_path / 'models.py'}:any_size", images)
    starter = to_recipe(images, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
    count = images.splits["train"]
    assert 0 < count < 36
    said = (
        f"it is learned from 200 training images on, and there are {count}; with {200 - count} more, 'init --thorough' "
        "plans it"
    )
    assert f"guess: explainer.enabled: {said}" in starter.messages
    assert said in starter.text.replace("\n  # ", " ")
    assert "about 100 are needed to come to the budget" in starter.text.replace("\n  # ", " ")
    plenty = replace(images, splits={**images.splits, "train": 200})
    assert "explainer.enabled" not in "".join(
        to_recipe(plenty, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file).messages
    )


def test_what_can_hardly_shrink_gets_a_budget_that_can_be_reached(images: ImageFacts, tmp_path: Path) -> None:
    seen = examine_model(f"{tmp_path / 'models.py'}:any_size", images)
    stiff = replace(seen, inspection=replace(seen.inspection, smallest_macs=round(0.6 * seen.inspection.macs)))
    for model, macs in ((seen, 0.5), (stiff, 0.66)):
        starter = to_recipe(images, model, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
        (tmp_path / "recipe.yaml").write_text(starter.text)
        limit = load_recipe(tmp_path / "recipe.yaml").budget.macs
        assert limit is not None
        assert limit.value == pytest.approx(macs, abs=0.011)


def test_a_class_folder_s_name_writes_no_setting(images: ImageFacts, tmp_path: Path) -> None:
    names = (
        "a\u2028seed: 7",
        "b\x85seed: 7",
        "c\nseed: 7",
        "d\rseed: 7",
        "e\x1fseed: 7",
        "f\x1b\u202e\uffff",
        "g # : [",
    )
    counts = dict.fromkeys(names, 20)
    seen = examine_model(f"{tmp_path / 'models.py'}:any_size", images)
    named = replace(images, classes=names, counts=counts)
    starter = to_recipe(named, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
    plain = to_recipe(images, seen, out=tmp_path / "recipe.yaml", memory=None, schema=schema_file)
    assert yaml.safe_load(starter.text) == yaml.safe_load(plain.text)
    assert yaml.safe_load(starter.budget) == yaml.safe_load(plain.budget)
    assert all(line.isprintable() for line in starter.text.split("\n"))
    comments = " ".join(line.strip(" #") for line in starter.text.split("\n"))
    for shown in (r"a\u2028seed: 7", r"b\x85seed: 7", r"d\rseed: 7", r"e\x1fseed: 7", r"f\x1b\u202e\uffff"):
        assert shown in comments
