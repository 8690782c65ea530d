import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimsight.compress.amounts import Amount
from slimsight.compress.config import FinetuneConfig, GatesConfig
from slimsight.compress.errors import ConfigError
from slimsight.deploy.settings.recipe import Recipe, dump_recipe, load_recipe
from slimsight.deploy.settings.yaml_text import dump_yaml, parse_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    head, *lines = str(caught.value).splitlines()
    assert head == f"the recipe {path} cannot be used:"
    return [line.removeprefix("  ") for line in lines]


def about(section: str, key: str) -> str:
    """What a refusal says of a key, beside what is allowed."""
    described = Recipe.model_fields[section].annotation.model_fields[key].description
    return f" ({described})" if described else ""


@pytest.mark.parametrize("text", ["", "# nothing\n", "gates:\nfinetune:\n", "\ufeffseed: 0\n", "{}"])
def test_what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    assert load_recipe(write(tmp_path, text)) == Recipe()


def test_plain_scalars_mean_what_they_look_like(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            "seed: 010\ngates: {lr: 1e-3, steps: 1e2, steer: none}\nbudget: {macs: 20e6}\n"
            "data: {flip: no}\nmodel: {name: '1e3'}\n",
        )
    )
    assert recipe.seed == 10
    assert recipe.gates.lr == 0.001
    assert recipe.gates.steps == 100
    assert recipe.gates.steer == "none"
    assert recipe.budget.macs == Amount(20_000_000, relative=False)
    assert recipe.data.flip is False
    assert recipe.model.name == "1e3"


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "seed: true\nprecison: bf16\nthreads: 0\ngates:\n  steer: rgb\n  steps: 5\n  steps: 6\n  stpes: 7\n"
        "model: {weights: 3, mean: [.5, .5], std: [1, -1, 1]}\nfinetune: [1]\n",
    )
    assert problems(path, "budget.macs=5", "gates.lr", "export.formats=[onnx, tflite]") == [
        "line 1: seed: true was given; allowed: a whole number at least 0 and at most 4294967295 "
        "(the same recipe, seed and images give the same slim model)",
        f"line 2: precison: unknown key; allowed: {', '.join(Recipe.model_fields)}; did you mean 'precision'?",
        "line 3: threads: 0 was given; allowed: a whole number at least 1 and at most 1024 or null "
        "(CPU threads of every stage that learns; null: all cores)",
        "line 5: gates.steer: 'rgb' was given; allowed: rbf, realx, varsal, none, magnitude, uniform, taylor, fpgm, "
        f"bn_scale, lamp or random{about('gates', 'steer')}; did you mean 'rbf'?",
        "line 7: gates.steps: written twice, in line 6 and line 7; keep one",
        f"line 7: gates.steps: 6 was given; allowed: a whole number at least 20 and at most "
        f"10000000{about('gates', 'steps')}",
        f"line 8: gates.stpes: unknown key; allowed: {', '.join(GatesConfig.model_fields)}; did you mean 'steps'?",
        "line 9: model.weights: 3 was given; allowed: a path or pretrained or null "
        "(safetensors or a state dict; null trains from scratch with `train`)",
        f"line 9: model.mean: [0.5, 0.5] was given; allowed: a list of 3, each a number{about('model', 'mean')}",
        "line 9: model.std.1: -1 was given; allowed: a number above 0",
        f"line 10: finetune: [1] was given; allowed: a mapping with the keys {', '.join(FinetuneConfig.model_fields)}",
        "--set gates.lr: allowed: KEY.KEY=VALUE, e.g. --set budget.macs=0.5",
        "--set budget.macs=5: budget.macs: 5 is neither a ratio nor a plausible amount of MACs: give a ratio to the "
        "original up to 1 (0.5 or 50%) or an amount of at least 1000 (20M, 500k, 4e9)",
        "--set export.formats=[onnx, tflite]: export.formats.1: 'tflite' was given; allowed: onnx or pt2",
    ]


def test_what_an_override_replaces_is_named_by_the_argument(tmp_path: Path) -> None:
    path = write(tmp_path, "gates:\n  steps: 40\n  lr: -1\n")
    assert problems(path, "gates.steps=3") == [
        f"line 3: gates.lr: -1 was given; allowed: a number above 0 or null{about('gates', 'lr')}",
        f"--set gates.steps=3: gates.steps: 3 was given; allowed: a whole number at least 20 and at most "
        f"10000000{about('gates', 'steps')}",
    ]


def test_a_key_in_the_wrong_place_is_pointed_to_the_right_ones(tmp_path: Path) -> None:
    (line,) = problems(write(tmp_path, "target_area: .3"))
    assert line.endswith("latency; did you mean explainer.target_area?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", r"it holds \[1\]; allowed: a mapping with the keys seed, precision"),
        ("seed: [", r"it is not valid YAML: line 1, column 8: expected the node content"),
        ("seed: 0\n\tgates: 1", r"it is not valid YAML: line 2, column 1: found character '\\t'"),
        ("a: 1\n---\nb: 1", "line 2, column 1: but found another document"),
        ("seed: !!python/name:os.system", r"line 1: the tag !!python/name:os.system is not taken"),
        ("seed: !!int x", "line 1, column 7: 'x' is not a whole number"),
        ("seed: 0\ndata: \0", r"line 2: the character .* is not allowed in YAML"),
        ("seed: " + "[" * 5000, "it is nested too deeply"),
        ("seed: &x [*x]", "line 1: what stands here holds itself, by an alias"),
        ("1: 2", "1: unknown key; allowed: seed"),
        ("seed:", "seed: null was given; allowed: a whole number at least 0"),
        ("seed: " + "9" * 5000, "seed: inf was given; allowed: a whole number"),
        ("seed: .5", "seed: 0.5 was given; allowed: a whole number"),
        ("finetune: {lr: .nan}", "finetune.lr: nan was given; allowed: a number above 0"),
        (
            "finetune: {distill: 1.5}",
            r"finetune.distill: 1.5 was given; allowed: a number at least 0 and at most 1",
        ),
        (
            "model: {std: [1, true, 1]}",
            r"model.std: \[1, True, 1\] was given; allowed: a list of 3, each a number",
        ),
        ("model: {weights: ''}", "model.weights: '' was given; allowed: a path or pretrained or null"),
        (
            "model: {weights: ~nobody-here/x}",
            "'~nobody-here/x' was given, but there is no such home folder; write it in full",
        ),
        ('model: {weights: "a\\0b"}', r"model.weights: 'a\\x00b' was given; allowed: a path"),
        (
            "data: {source: image_tree}",
            "data: source 'image_tree' needs 'path': the folder that holds the images",
        ),
    ],
)
def test_one_clear_line_for_each_mistake(tmp_path: Path, text: str, message: str) -> None:
    (line,) = problems(write(tmp_path, text))
    assert re.search(message, line)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: \xff")
    assert problems(path) == ["it is not a text file in UTF-8 (byte 6 is 0xff)"]


def test_a_missing_recipe_names_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(ConfigError, match=r"there is no recipe .*recipes\.yaml; did you mean 'recipe.yaml'\? \(rec"):
        load_recipe(tmp_path / "recipes.yaml")
    with pytest.raises(ConfigError, match=r"is a folder, not a recipe \(recipes in .*: recipe\.yaml\)"):
        load_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no recipe .*; give a YAML file \(no recipes are in"):
        load_recipe(tmp_path / "no" / "recipe.yaml")


def test_paths_count_from_the_recipe_or_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = write(
        tmp_path / "configs",
        "data: {source: image_tree, path: ../images, val_list: ~/val.txt}\n"
        "model: {name: 'nets/my.py:make', weights: w.pt}\n",
    )
    recipe = load_recipe(Path("../configs/recipe.yaml"))
    assert path.is_file()
    assert recipe.data.path == tmp_path / "images"
    assert recipe.data.val_list == tmp_path / "home" / "val.txt"
    assert recipe.model.name == f"{tmp_path}/configs/nets/my.py:make"
    assert recipe.model.weights == tmp_path / "configs" / "w.pt"

    recipe = load_recipe(path, ["data.path=images", "model.name=my.py:make", "model.weights=pretrained"])
    assert recipe.data.path == tmp_path / "here" / "images"
    assert recipe.model.name == f"{tmp_path}/here/my.py:make"
    assert recipe.model.weights == "pretrained"


@pytest.mark.parametrize("name", ["resnet20", "torchvision:resnet18", "timm:x.py"])
def test_names_that_are_no_files_stay(tmp_path: Path, name: str) -> None:
    assert load_recipe(write(tmp_path, f"model: {{name: '{name}'}}")).model.name == name


def test_overrides_write_into_the_tree_and_the_later_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "gates: &x {steps: 50}\nseed: 3\n")
    recipe = load_recipe(
        path,
        ["gates.steps=60", "gates.steps=70", "gates.lr=1e-2", "seed=4", "model.train.epochs=2", "threads="],
    )
    assert (recipe.gates.steps, recipe.gates.lr, recipe.seed, recipe.threads) == (70, 0.01, 4, None)
    assert recipe.model.train.epochs == 2
    assert recipe.model.train.lr == 0.1
    assert load_recipe(path, ["gates={images: 9}"]).gates.steps == 1000  # a mapping replaces the section


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: allowed: KEY.KEY=VALUE"),
        ("=1", "--set =1: allowed: KEY.KEY=VALUE"),
        ("gates..lr=1", "--set gates..lr=1: allowed"),
        ("seed=[", "--set seed=[: the value is not valid YAML: line 1, column 2"),
        ("seed.x=1", "--set seed.x=1: seed: {'x': 1} was given; allowed: a whole number"),
        ("gatez.lr=1", "--set gatez.lr=1: gatez: unknown key; allowed: seed, precision"),
        ("gates={lr: 1, lr: 2}", "--set gates={lr: 1, lr: 2}: lr: written twice, in line 1 and line 1; keep one"),
    ],
)
def test_overrides_that_cannot_be_used(tmp_path: Path, override: str, message: str) -> None:
    (line,) = problems(write(tmp_path, ""), override)
    assert line.startswith(message)


def test_a_broken_file_and_a_broken_override_are_both_told(tmp_path: Path) -> None:
    first, second = problems(write(tmp_path, "a: b: c"), "seed")
    assert first == "it is not valid YAML: line 1, column 5: mapping values are not allowed here"
    assert second.startswith("--set seed: allowed")


def test_merge_keys_are_no_repetition(tmp_path: Path) -> None:
    path = write(tmp_path, "finetune: &f {lr: 0.2, epochs: 3}\nmodel: {train: {<<: *f, lr: 0.3}}\n")
    assert load_recipe(path).model.train.lr == 0.3
    assert load_recipe(path).model.train.epochs == 3


def test_the_resolved_recipe_holds_every_default_and_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, "seed: 7"),
        ["finetune.lr=1e-5", f"model.weights='{tmp_path}/ä b: c.pt'", "latency.rounds=30"],
    )
    text = dump_recipe(recipe)
    assert load_recipe(write(tmp_path, text)) == recipe
    values, repeated = parse_yaml(text)
    assert list(values) == list(Recipe.model_fields)
    assert values["finetune"]["lr"] == 1e-5
    assert values["model"]["weights"] == os.path.realpath(tmp_path / "ä b: c.pt")
    assert "mean: [0.485, 0.456, 0.406]\n" in text
    assert repeated == []


SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(max_size=8)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)))
def test_what_is_written_as_yaml_reads_back_equal(value: Any) -> None:
    found, _ = parse_yaml(dump_yaml(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e3", "010", "12:30", "no", "null", "~", "1_0", "2024-01-01", "0x1f", "=", "<<", "-"]
)
def test_words_that_look_like_something_else_stay_words(text: str) -> None:
    assert parse_yaml(dump_yaml({text: text})) == ({text: text}, [])


def test_a_mistake_in_an_override_names_the_argument_and_one_in_the_file_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("seed: 0\ngates:\n  steps: many\n")
    with pytest.raises(ConfigError) as raised:
        load_recipe(path, ["budget.macs=lots", "finetune.epoch=3", "gates.steps=true"])
    lines = str(raised.value).splitlines()
    assert lines[0] == f"the recipe {path} cannot be used:"
    starts = (
        "--set budget.macs=lots: budget.macs: ",
        "--set finetune.epoch=3: finetune.epoch: unknown key",
        "--set gates",
    )
    assert all(any(line.strip().startswith(start) for line in lines[1:]) for start in starts), lines
    with pytest.raises(ConfigError, match=r"line 3: gates\.steps: 'many' was given"):
        load_recipe(path, ["budget.macs=50%"])


UNLABELLED = """
data: {source: image_folder, labels: none, path: photos, image_size: 32}
model: {name: resnet20, weights: w.safetensors}
"""


def test_without_labels_finetuning_is_distillation(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(UNLABELLED)
    recipe = load_recipe(path)
    assert (recipe.data.labels, recipe.finetune.distill, recipe.checks.agreement) == ("none", 1.0, 0.9)
    assert load_recipe(path, ["checks.agreement=85%"]).checks.agreement == 0.85
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.distill=0.5", "data.labels is none and finetune.distill is 0.5: without labels all of the loss"),
        ("export.int8.qat.distill=0.5", "data.labels is none and export.int8.qat.distill is 0.5: without labels all"),
        ("model.weights=null", "data.labels is none and model.weights is null: without labels no classifier can be"),
        ("model.head=new", "data.labels is none and model.head is new: without labels no classifier can be trained"),
        ("dynamic.enabled=true", "data.labels is none and dynamic.enabled is true: the dynamic variant learns from"),
        ("data.labels=null", "data.labels: null was given; allowed: folders or none"),
        ("checks.agreement=110%", "is not a valid agreement: give a share from 0 to 1 or a percentage"),
    ],
)
def test_what_needs_labels_is_refused_without_them(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(UNLABELLED)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe(path, [override])
