"""Fixtures for the commands of the pages: a reader's images, model, recipe and finished run.

All are small and have the names that the pages use, so that commands run unchanged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from slimsight.compress.files.atomic import read_tensors, write_tensors
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SIDE = 16

MODEL = """
from torch import nn


def block(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def build(classes):
    return nn.Sequential(
        block(3, 16, 2), block(16, 24, 2), block(24, 24, 1), block(24, 24, 1), block(24, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )
"""
RECIPE = f"""
threads: 1
data:
  {{source: image_folder, path: my_images, image_size: {SIDE}, val_fraction: 0.2, flip: false, crop_padding: 0}}
model: {{name: "my_model.py:build", train: {{epochs: 4, lr: 0.1, batch_size: 64}}}}
explainer:
  predictor: {{epochs: 3, lr: 1e-3, batch_size: 64}}
  selector: {{epochs: 4, batch_size: 64}}
gates: {{steer: magnitude}}
budget: {{macs: 0.5}}
checks: {{accuracy_drop: null}}
finetune: {{epochs: 1, lr: 0.02, batch_size: 64}}
latency: {{rounds: 20, warmup_seconds: 0.1}}
"""
BUDGETS = {
    "budget.yaml": "macs: 50%\naccuracy_drop: 50%\nparity: true\n",
    "model-budget.yaml": "macs: 20M\nparams: 250k\n",
}
TEST = """
from slimsight.testing import assert_macs
from my_model import build


def test_small(slimsight):
    assert_macs(build(10), "3x64x64", max="20M")
    slimsight.assert_params(build(10), max="250k")
"""


def write_project(folder: Path) -> None:
    """The reader's files: digits as JPEG in a folder per class, a model, a recipe, a budget, and two pictures."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / "my_images" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels.convert("RGB").save(place / f"{number:04}.jpg", quality=95)
    (folder / "my_model.py").write_text(MODEL, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    for name, text in BUDGETS.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tests").mkdir()
    (folder / "tests/test_model.py").write_text(TEST, encoding="utf-8")
    images = torch.from_numpy(digits.images).float()[:, None].repeat_interleave(3, 1) / 16
    images, labels = nn.functional.interpolate(images, size=SIDE, mode="bilinear"), torch.from_numpy(digits.target)
    parts = {"train": (images[:1400], labels[:1400]), "val": (images[1400:], labels[1400:])}
    torch.save(parts, folder / "digits.pt")
    shutil.copy(folder / "my_images/3/0003.jpg", folder / "cat.jpg")


def finish_run(folder: Path) -> None:
    """``slimsight run recipe.yaml --out runs/mine``, and the other files that the pages name."""
    root = folder / "runs/mine"
    run_recipe(load_recipe(folder / "recipe.yaml"), root, name="recipe.yaml", cache=folder / "cache")
    (weights,) = (root / "stages/classifier").glob("*.safetensors")
    write_tensors(folder / "my_model.safetensors", read_tensors(weights))
    for name in ("digits", "other"):
        shutil.copytree(root, folder / "runs" / name)
    for name in ("a", "b", "model"):
        shutil.copy(root / "slim/model.onnx", folder / f"{name}.onnx")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's files without a run; tests use copies."""
    folder = tmp_path_factory.mktemp("reader") / "written"
    folder.mkdir()
    write_project(folder)
    return folder


@pytest.fixture(scope="session")
def pristine(written: Path) -> Path:
    """The project with a finished run; tests use copies."""
    place = written.parent
    copy_project(written, place / "project")
    before = Path.cwd()
    os.chdir(place / "project")
    try:
        finish_run(place / "project")
    finally:
        os.chdir(before)
    (place / "project").rename(place / "pristine")
    return place / "pristine"


@pytest.fixture
def project(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy at the original path (recipes have absolute paths), which is the current folder."""
    with working_in(pristine, monkeypatch) as folder:
        yield folder


@pytest.fixture
def files(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same without a run."""
    with working_in(written, monkeypatch) as folder:
        yield folder


@contextmanager
def working_in(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = source.parent / "project"
    copy_project(source, folder)
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    shutil.rmtree(folder)


def copy_project(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("my_images"))
    shutil.copytree(source / "my_images", folder / "my_images", copy_function=os.link)  # nobody writes to them
