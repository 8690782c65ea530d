"""A user's own files in the folders that slimsight writes into: kept by every command that removes files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from slimsight import save
from slimsight.compress.errors import ConfigError
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training.checkpoint import Checkpoints, write_packed
from slimsight.deploy.report.canvas import new_figure, refuse_foreign_pictures
from slimsight.deploy.report.canvas import save as save_figure
from slimsight.deploy.report.files import panel_files
from slimsight.deploy.run.resume import remove_report_files, remove_stage_checkpoints, report_files
from slimsight.deploy.run_dir import open_run
from slimsight.deploy.run_dir.run import is_run
from slimsight.deploy.slim_folder import SUMS, Slimmed, load
from slimsight.deploy.trust.curves import CurveLine, CurvePanel, draw_curves

from ..conftest import Said


def put(path: Path, content: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_checkpoints(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        folder = run.checkpoints / "gates"
        mine = [put(folder / "notes.txt"), put(run.checkpoints / "best.ckpt"), put(run.checkpoints / "old" / "a")]
        save_file({"weight": torch.zeros(2)}, folder / "weights.safetensors")
        checkpoints = Checkpoints(folder, "key")
        checkpoints.of("the gates", {}).save(3)
        put(folder / "rbf.safetensors", "cut off")  # of another training
        write_packed(folder / "stale.safetensors", {"format": 1})
        assert (folder / "the-gates.safetensors").is_file()
        checkpoints.remove()
        kept = {"notes.txt", "weights.safetensors", "rbf.safetensors"}
        assert {path.name for path in folder.iterdir()} == kept
        write_packed(run.checkpoints / "surgery" / "stale.safetensors", {"format": 1})
        remove_stage_checkpoints(run)
        assert not (run.checkpoints / "surgery").exists()
        assert {path.name for path in folder.iterdir()} == kept
        assert all(path.read_text(encoding="utf-8") == "mine" for path in mine)


def test_no_folder_is_left_where_nothing_is_the_users(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        write_packed(run.checkpoints / "gates" / "gates.safetensors", {"format": 1})
        remove_stage_checkpoints(run)
        assert not run.checkpoints.exists()


def test_panels(tmp_path: Path) -> None:
    ours = [put(tmp_path / "panels" / name) for name in ("drifted-01.webp", "explained.json")]
    mine = [put(tmp_path / "panels" / name) for name in ("mine.webp", "drifted-01.png", "explained.json.bak")]
    assert panel_files(tmp_path) == ours
    assert report_files(tmp_path) == ours  # what is recorded is removed later
    remove_report_files(tmp_path)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in mine)
    for path in mine:
        path.unlink()
    remove_report_files(tmp_path)
    assert not (tmp_path / "panels").exists()


def test_a_project_with_a_recipe_and_a_folder_stages_is_no_run(tmp_path: Path) -> None:
    put(tmp_path / "recipe.yaml")
    put(tmp_path / "stages" / "one" / "talk.txt")
    assert not is_run(tmp_path)
    put(tmp_path / "stages" / "gates" / "done.json")  # an earlier version's, which wrote no marker
    assert is_run(tmp_path)


def test_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / "mine.png")
    put(tmp_path / "text.png")
    save_figure(new_figure(1.0), tmp_path / "panel.png")
    curve = CurvePanel("t", "x", "y", [CurveLine("a", [0, 1], [0, 1], [0, 0])])
    draw_curves(tmp_path / "sanity.png", [curve], control="a", names=["a"])
    refuse_foreign_pictures([tmp_path / name for name in ("panel.png", "sanity.png", "absent.png")])
    for name in ("mine.png", "text.png"):
        with pytest.raises(ConfigError, match=rf"{name} exists, and slimsight did not draw it: it is kept"):
            refuse_foreign_pictures([tmp_path / "panel.png", tmp_path / name])


def test_explain_beside_the_images(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    Image.fromarray(np.full((8, 8, 3), 9, dtype=np.uint8)).save(image)
    before = image.read_bytes()
    arguments = ("explain", finished.root, image, "--with", "gradient", "--out")
    said = say(*arguments, tmp_path)
    assert (said.code, image.read_bytes()) == (2, before)
    assert "cat.png exists, and slimsight did not draw it: it is kept; move it away" in said.err
    for _ in range(2):  # its own picture is drawn anew
        assert say(*arguments, tmp_path / "pictures").code == 0


def test_export_beside_a_model_of_the_users(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    mine = onnx.load(finished.root / "slim/model.onnx")
    del mine.metadata_props[:]
    onnx.save(mine, tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").read_bytes()
    said = say("export", finished.root, "--to", "onnx", "--out", tmp_path)
    assert (said.code, (tmp_path / "model.onnx").read_bytes()) == (2, before)
    assert "model.onnx exists, and slimsight did not export it: it is kept; move it away" in said.err
    put(tmp_path / "b" / "model.pt2")
    assert say("export", finished.root, "--to", "onnx,pt2", "--out", tmp_path / "b").code == 2
    for name in ("model.tensorrt.fp32.engine", "model.fp16.onnx"):
        put(tmp_path / name / name)
        options = ("--to", "onnx,tensorrt", "--precision", "fp16,fp32", "--out", tmp_path / name)
        assert f"{name} exists, and slimsight did not export it" in say("export", finished.root, *options).err
        assert (tmp_path / name / name).read_text(encoding="utf-8") == "mine"


def test_save_beside_weights_of_the_users(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    slimmed = Slimmed(model.eval(), PrunePlan({}, {}), torch.rand(2, 3, 8, 8), 1, 0.0)
    mine = put(tmp_path / "project" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors exists, and slimsight\.save did not write it"):
        save(slimmed, mine.parent)
    assert [path.name for path in mine.parent.iterdir()] == ["model.safetensors"]
    for _ in range(2):  # its own folder is written anew
        save(slimmed, tmp_path / "slim")
    assert torch.equal(load(tmp_path / "slim")(slimmed.example), model(slimmed.example))
    put(tmp_path / "slim" / "notes.txt")
    save(slimmed, tmp_path / "slim")
    assert {"notes.txt", SUMS} < {path.name for path in (tmp_path / "slim").iterdir()}
