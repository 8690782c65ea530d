"""What decides a result is in the fingerprint of its stage: each kind of change, and exactly the stages it redoes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.models import build_classifier
from slimsight.compress.progress import SILENT, Silent
from slimsight.deploy.run.model_code import ModelCode
from slimsight.deploy.run.pipeline import stage_fingerprints, to_stages
from slimsight.deploy.run.resume import OLDER_FINGERPRINTS, find_reusable
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import open_run
from slimsight.deploy.settings.recipe import load_recipe

ALL = ["classifier", "gates", "surgery", "finetune", "export", "latency", "judgement"]
JUDGED = ["judgement"]
MODEL = """
from torch import nn
import blocks
from pathlib import Path

def net(classes):
    Path(__file__).with_name("config.json").read_text()
    body = [nn.Conv2d(3, 8, 3, padding=1), blocks.activation(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""
BLOCKS = """
from parts.act import activation
"""
ACT = """
from torch import nn
activation = nn.ReLU
"""
RECIPE = """
threads: 1
data: {{source: image_folder, path: images, image_size: 8, flip: false, crop_padding: 0{data}}}
model: {{name: "model.py:net", weights: weights.safetensors, files: [table.bin]}}
explainer: {{enabled: false}}
gates: {{steer: magnitude}}
budget: {{macs: 60%}}
finetune: {{epochs: 1, batch_size: 16}}
latency: {{rounds: 20, warmup_seconds: 0.1}}
"""
FORMS = {"once": "", "files": ", decode: on_the_fly, workers: 0"}


def paint(path: Path, value: int) -> None:
    """A PNG file of one colour; all are of the same size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path, compress_level=0)


def later(path: Path) -> None:
    """A modification time that no earlier write has had."""
    os.utime(path, ns=(1_000_000_000, 1_000_000_000 + path.stat().st_mtime_ns))


@pytest.fixture(params=FORMS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Images of two classes in three splits, more than 64 to train with, a model of several files, and a recipe."""
    root = tmp_path / "project"
    for split, count in (("train", 70), ("validation", 3), ("test", 3)):
        for shift, label in enumerate(("a", "b")):
            for number in range(count):
                paint(root / "images" / split / label / f"{number:02d}.png", 2 * number + shift)
    (root / "model.py").write_text(MODEL)
    (root / "blocks.py").write_text(BLOCKS)
    (root / "parts").mkdir()
    (root / "parts" / "act.py").write_text(ACT)
    (root / "skip.txt").write_text("train/a/01.png\n")
    (root / "config.json").write_text('{"widths": [8, 8]}')
    (root / "table.bin").write_text("[]")
    write_recipe(root, FORMS[request.param] + ", skip: skip.txt")
    write_weights(root, 0)
    return root


def write_recipe(root: Path, data: str) -> None:
    (root / "recipe.yaml").write_text(RECIPE.format(data=data))


def write_weights(root: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = load_recipe(root / "recipe.yaml", []).model.model_copy(update={"weights": None})
    save_file(build_classifier(model, 2).net.state_dict(), root / "weights.safetensors")


def keys(root: Path, *overrides: str) -> dict[str, str]:
    """Fingerprints by stage, as a new process would compute them."""
    with open_run(root.parent / "run") as run:
        session = Session(load_recipe(root / "recipe.yaml", overrides), run, SILENT, root.parent / "cache")
        return stage_fingerprints(to_stages(session.recipe), session)


def redone(root: Path, change: Callable[[Path], Any], *overrides: str) -> list[str]:
    """The stages whose fingerprint a change alters."""
    before = keys(root)
    change(root)
    return [name for name, key in keys(root, *overrides).items() if key != before[name]]


def repaint(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        size = (root / path).stat().st_size
        paint(root / path, 255)
        assert (root / path).stat().st_size == size
        later(root / path)

    return change


def repaint_unnoticed(path: str) -> Callable[[Path], None]:
    """Other content, of the same size, under the same modification time."""

    def change(root: Path) -> None:
        before = (root / path).stat()
        time.sleep(0.02)  # a file system's clock has ticks
        paint(root / path, 255)
        os.utime(root / path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = (root / path).stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    return change


def add_unnoticed(path: str) -> Callable[[Path], None]:
    """Another file in a folder whose modification time is as before."""

    def change(root: Path) -> None:
        folder = (root / path).parent
        before = folder.stat()
        time.sleep(0.02)
        paint(root / path, 7)
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def swap_test_classes(root: Path) -> None:
    test = root / "images" / "test"
    (test / "a").rename(test / "c")
    (test / "b").rename(test / "a")
    (test / "c").rename(test / "b")


def rename_class(root: Path) -> None:
    for split in ("train", "validation", "test"):
        (root / "images" / split / "b").rename(root / "images" / split / "z")


def label_test_by_list(root: Path, first: str) -> None:
    test = root / "images" / "test"
    if (test / "a").is_dir():
        for label in "ab":
            for file in sorted((test / label).iterdir()):
                file.rename(test / f"{label}{file.name}")
            (test / label).rmdir()
    names = sorted(path.name for path in test.iterdir())
    lines = [f"{name} {first if number == 0 else name[0]}" for number, name in enumerate(names)]
    (root / "labels.txt").write_text("\n".join(lines))


CHANGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "a test image": (repaint("images/test/a/01.png"), JUDGED),
    "a training image": (repaint("images/train/b/37.png"), ALL),
    "a validation image": (repaint("images/validation/b/01.png"), ALL),
    "a training image, its time restored": (repaint_unnoticed("images/train/b/37.png"), ALL),
    "a validation image, its time restored": (repaint_unnoticed("images/validation/b/01.png"), ALL),
    "a test image, its time restored": (repaint_unnoticed("images/test/b/01.png"), JUDGED),
    "a training image more, its folder's time restored": (add_unnoticed("images/train/a/77.png"), ALL),
    "two class folders of the test images": (swap_test_classes, JUDGED),
    "a test image fewer": (lambda root: (root / "images/test/a/01.png").unlink(), JUDGED),
    "a training image fewer": (lambda root: (root / "images/train/a/02.png").unlink(), ALL),
    "a test image more": (lambda root: paint(root / "images/test/a/77.png", 7), JUDGED),
    "a training image more": (lambda root: paint(root / "images/train/a/77.png", 7), ALL),
    "a neighbour of the model's file": (lambda root: (root / "blocks.py").write_text(ACT.replace("ReLU", "SiLU")), ALL),
    "a neighbour's neighbour": (lambda root: (root / "parts/act.py").write_text(ACT.replace("ReLU", "SiLU")), ALL),
    "a file that the factory reads": (lambda root: (root / "config.json").write_text("{}"), ALL),
    "a file that model.files names": (lambda root: (root / "table.bin").write_text("{}"), ALL),
    "the weights": (lambda root: write_weights(root, 1), ALL),
    "a skipped training image": (lambda root: (root / "skip.txt").write_text("train/a/02.png\n"), ALL),
    "a skipped test image": (lambda root: (root / "skip.txt").write_text("train/a/01.png\ntest/a/01.png\n"), JUDGED),
    "a class of another name": (rename_class, ALL),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_redoes_the_stages_that_it_decides_and_no_others(project: Path, what: str) -> None:
    change, expected = CHANGES[what]
    assert redone(project, change) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("budget.macs=50%", ["surgery", "finetune", "export", "latency", "judgement"]),
        ("finetune.lr=0.01", ["finetune", "export", "latency", "judgement"]),
        ("latency.rounds=30", ["latency"]),
        ("data.workers=1", []),
    ],
)
def test_a_setting_redoes_the_stages_that_read_it(project: Path, override: str, expected: list[str]) -> None:
    assert redone(project, lambda _: None, override) == expected


def test_another_label_in_the_list_of_test_labels_redoes_the_judgement(project: Path) -> None:
    recipe = (project / "recipe.yaml").read_text()
    label_test_by_list(project, "a")
    (project / "recipe.yaml").write_text(recipe.replace("skip: skip.txt", "test_labels: labels.txt"))
    assert redone(project, lambda root: label_test_by_list(root, "b")) == JUDGED


def test_files_that_are_touched_or_lie_elsewhere_redo_nothing(project: Path) -> None:
    def touch(root: Path) -> None:
        for file in root.rglob("*.*"):
            later(file)

    assert redone(project, touch) == []
    before = keys(project)
    moved = project.with_name("moved")
    shutil.move(project, moved)
    assert keys(moved) == before


def test_a_model_is_built_from_its_neighbours_as_they_are_now(project: Path) -> None:
    model = load_recipe(project / "recipe.yaml", []).model
    assert not any(isinstance(m, torch.nn.SiLU) for m in build_classifier(model, 2).modules())
    (project / "parts/act.py").write_text(ACT.replace("ReLU", "SiLU"))
    assert any(isinstance(m, torch.nn.SiLU) for m in build_classifier(model, 2).modules())


def test_code_that_changes_while_a_stage_runs_is_not_recorded(project: Path) -> None:
    code = ModelCode.of(load_recipe(project / "recipe.yaml", []).model, 2)
    assert sorted(code.needed or ()) == ["blocks", "config.json", "parts.act", "table.bin"]
    code.check_unchanged("gates")
    (project / "parts/act.py").write_text(ACT.replace("ReLU", "SiLU"))
    with pytest.raises(RunError, match=r"act\.py changed while stage 'gates' ran, .*run again"):
        code.check_unchanged("gates")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.files=[absent.bin]", r"model\.files: there is no file .*/absent\.bin; name each file, not its folder"),
        ("model.files=[images]", r"model\.files: there is no file .*/images; name each file"),
        ("model.name=resnet20", r"model\.files names .*/table\.bin and model\.name is resnet20, which is no code of"),
    ],
)
def test_files_of_a_model_are_files_and_of_code(
    project: Path, override: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError, match=words):
        ModelCode.of(load_recipe(project / "recipe.yaml", [override]).model, 2)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("version", "expected"), [(1, [OLDER_FINGERPRINTS]), (2, [])])
def test_a_run_of_an_earlier_version_is_done_again_and_told_why(
    tmp_path: Path, version: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimsight.deploy.run_dir.run.FINGERPRINT_VERSION", version)
    notes = Notes()
    with open_run(tmp_path / "run") as run:
        run.begin("classifier")
        run.finish("classifier", "old", 1, {}, [])
        assert find_reusable({"classifier": ()}, {"classifier": "new"}, run, notes) == {}
    assert notes.notes == expected
