"""Files and folders whose names are not UTF-8: read where images lie, refused in one sentence where a path is given."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from slimsight.compress.config import DataConfig
from slimsight.compress.data import open_splits
from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.files.atomic import read_json, write_json, write_text
from slimsight.compress.files.sealed import read_sealed, write_sealed
from slimsight.compress.files.untrusted import as_text, is_utf8, parse_json, printable
from slimsight.deploy.cli.main import main
from slimsight.deploy.settings.recipe import load_recipe

LATIN = os.fsdecode(b"caf\xe9")
MODEL = """from torch import nn
def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""
RECIPE = """data: {source: image_folder, path: images, image_size: 8}
model: {name: "m.py:build", train: {epochs: 1, batch_size: 8}}
threads: 1
explainer: {enabled: false}
gates: {steer: magnitude}
budget: {macs: 60%}
checks: {accuracy_drop: null}
finetune: {epochs: 1, batch_size: 8}
export: {formats: [onnx]}
latency: {rounds: 20, sessions: 1, warmup_seconds: 0.01}
"""


def draw_images(root: Path, classes: tuple[str, ...] = ("a", "b", LATIN), count: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes, one of them and one image of another with a name in Latin-1."""
    root = draw_images(tmp_path / "images")
    (root / "a" / "0.png").rename(root / "a" / f"{LATIN}.png")
    return root


def names_and_classes(config: DataConfig, cache: Path) -> tuple[tuple[str, ...], list[int]]:
    splits = open_splits(config, cache_dir=cache, seed=0)
    counts = np.bincount(splits.train.labels, minlength=3) + np.bincount(splits.val.labels, minlength=3)
    return splits.classes, (counts + np.bincount(splits.test().labels, minlength=3)).tolist()


@pytest.mark.parametrize("decode", ["once", "on_the_fly"])
def test_images_and_classes_are_read(images: Path, tmp_path: Path, decode: Any) -> None:
    config = DataConfig(source="image_folder", path=images, image_size=8, decode=decode, workers=0)
    first = names_and_classes(config, tmp_path / "cache")
    assert first == (("a", "b", r"caf\xe9"), [6, 6, 6])
    assert names_and_classes(config, tmp_path / "cache") == first  # from the cache


def test_an_archive_is_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw_images(tmp_path / "tree" / split)
    with tarfile.open(tmp_path / "tree.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tmp_path / "tree", "tree")
    config = DataConfig(source="image_tree", path=tmp_path / "tree.tar", image_size=8)
    for _ in range(2):
        splits = open_splits(config, cache_dir=tmp_path / "cache", seed=0)
        assert splits.classes == ("a", "b", r"caf\xe9")
        assert np.bincount(splits.test().labels).tolist() == [6, 6, 6]


def test_classes_that_would_be_shown_alike_are_refused(images: Path, tmp_path: Path) -> None:
    (images / "b").rename(images / r"caf\xe9")
    with pytest.raises(DataError, match=r"class folders that are shown alike, one of them not UTF-8 \(caf\\xe9\)"):
        open_splits(DataConfig(source="image_folder", path=images, image_size=8), cache_dir=tmp_path / "cache", seed=0)


def test_a_run_goes_to_its_end_and_shows_the_name_escaped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    for command in (["init", "m.py:build", "images", "--out", "x.yaml"], ["run", "r.yaml", "--out", "o"]):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 0, capsys.readouterr().err
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "o/slim/model.onnx").metadata_props}
    assert ["a", "b", r"caf\xe9"] in [json.loads(value) for value in metadata.values() if value.startswith("[")]
    for written in ("report.json", "report.md", "report.html", "recipe.yaml", "run.log"):
        assert (tmp_path / "o" / written).read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["explain", "o", "images/b/0.png", "--with", "gradient", "--class", r"caf\xe9"])
    assert left.value.code == 0
    assert r"true class caf\xe9" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", f"{LATIN}.yaml"),
        ("run", "r.yaml", "--out", LATIN),
        ("run", "r.yaml", "--set", f"data.path={LATIN}"),
        ("check", f"{LATIN}.onnx", "--budget", "b.yaml"),
        ("init", "--out", f"{LATIN}.yaml"),
        ("explain", "run", f"{LATIN}.png"),
        ("inspect", f"{LATIN}.py:build", "--input", "3x8x8"),
    ],
)
def test_an_argument_is_refused_first(arguments: tuple[str, ...], place: Any, refused: Callable[..., str]) -> None:
    sentence = refused(*arguments)
    assert r"caf\xe9" in sentence
    assert sentence.endswith("is a name that is not UTF-8: rename it, and try again")
    assert list(place.folder.iterdir()) == []


def test_the_current_folder_is_refused(place: Any, refused: Callable[..., str], monkeypatch: Any) -> None:
    (place.folder / LATIN).mkdir()
    monkeypatch.chdir(place.folder / LATIN)
    assert r"/caf\xe9, has a name that is not UTF-8: rename it" in refused("run", "r.yaml")


@pytest.mark.parametrize("key", ["data.path", "model.weights", "model.name"])
def test_a_path_of_a_recipe_that_leads_to_such_a_name(tmp_path: Path, key: str) -> None:
    (tmp_path / LATIN).mkdir()
    (tmp_path / LATIN / "m.py").touch()
    (tmp_path / "link").symlink_to(tmp_path / LATIN)
    (tmp_path / "r.yaml").write_text("seed: 0\n", encoding="utf-8")
    value = tmp_path / "link" / "m.py"
    with pytest.raises(ConfigError, match=rf"{key}: .*/caf\\xe9/m.py: its name, or that of a folder above it, is not"):
        load_recipe(tmp_path / "r.yaml", [f"{key}={value}{':build' if key == 'model.name' else ''}"])


def test_names_in_files_of_our_own_are_read_back(tmp_path: Path) -> None:
    write_sealed(tmp_path / "sealed.json", {"names": [LATIN]})
    write_json(tmp_path / "plain.json", {LATIN: 1})
    assert read_sealed(tmp_path / "sealed.json") == {"names": [LATIN]}
    assert read_json(tmp_path / "plain.json", file_names=True) == {LATIN: 1}
    with pytest.raises(ValueError, match="unpaired surrogate"):
        read_json(tmp_path / "plain.json")
    with pytest.raises(ValueError, match="unpaired surrogate"):  # half of a pair is the name of no file
        parse_json('"\\ud800"', file_names=True)
    write_text(tmp_path / "page.html", f"<b>{LATIN}</b>")
    assert (tmp_path / "page.html").read_bytes() == rb"<b>caf\xe9</b>"


def test_as_text() -> None:
    assert as_text(LATIN) == r"caf\xe9" == printable(LATIN)
    assert as_text(os.fsdecode(b"\xff\x80\xc3\xa9")) == r"\xff\x80" + "é"
    assert as_text("naïve\n\u202e") == "naïve\n\u202e"
    assert is_utf8("naïve")
    assert not is_utf8(LATIN)
