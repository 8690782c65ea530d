"""What the pages presume a reader has: a folder of images, a model of their own, a recipe, a finished run.

All of it is small, and under the names that the pages use, so that commands run as they are written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from compress.files import read_tensors, write_tensors
from deploy.pipeline import run_recipe
from deploy.recipe import load_recipe

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
data: {{source: image_folder, path: my_images, image_size: {SIDE}, flip: false, crop_padding: 0}}
model: {{name: "my_model.py:build", train: {{epochs: 4, lr: 0.1, batch_size: 64}}}}
explainer:
  predictor: {{epochs: 3, lr: 1e-3, batch_size: 64}}
  selector: {{epochs: 4, batch_size: 64}}
gates: {{steer: magnitude}}
budget: {{macs: 0.5}}
finetune: {{epochs: 1, lr: 0.02, batch_size: 64}}
latency: {{rounds: 20, warmup_seconds: 0.1}}
"""
BUDGET = "macs: 50%\naccuracy_drop: 50%\nparity: true\n"


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
    (folder / "budget.yaml").write_text(BUDGET, encoding="utf-8")
    shutil.copy(folder / "my_images/3/0003.jpg", folder / "cat.jpg")


def finish_run(folder: Path) -> None:
    """``slimsight run recipe.yaml --out runs/mine``, and what the pages take from elsewhere."""
    root = folder / "runs/mine"
    run_recipe(load_recipe(folder / "recipe.yaml"), root, name="recipe.yaml", cache=folder / "cache")
    (weights,) = (root / "stages/classifier").glob("*.safetensors")
    write_tensors(folder / "my_model.safetensors", read_tensors(weights))
    for name in ("a", "b"):
        shutil.copy(root / "slim/model.onnx", folder / f"{name}.onnx")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, finished; nobody works in it."""
    place = tmp_path_factory.mktemp("reader")
    (place / "project").mkdir()
    write_project(place / "project")
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
    """A copy in the place where it was made (recipes hold whole paths), which is the current folder."""
    folder = pristine.parent / "project"
    shutil.copytree(pristine, folder)
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    shutil.rmtree(folder)
