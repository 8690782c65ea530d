"""``slimsight explain`` and what a run says of its drift."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slimsight.compress.data import Preprocessing
from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.explain import Saliency
from slimsight.compress.progress import SILENT
from slimsight.deploy.explain.compare import ExplainerDrift, ModelPair, drift_text, top_classes
from slimsight.deploy.explain.inputs import parse_class, parse_explainers, picture_files, read_images
from slimsight.deploy.report import Report
from slimsight.deploy.report.markdown import render_markdown
from slimsight.deploy.run.report_pictures import to_drawable
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run

from ..conftest import Said


@pytest.fixture
def digits(tmp_path: Path) -> list[Path]:
    """Two images of other sizes, one in a folder that says its class."""
    random = np.random.default_rng(0)
    (tmp_path / "7").mkdir()
    (tmp_path / "any").mkdir()
    paths = [tmp_path / "7" / "wide.png", tmp_path / "any" / "tall.jpg"]
    for path, shape in zip(paths, ((20, 40, 3), (50, 30, 3)), strict=True):
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(path)
    return paths


def test_two_models_side_by_side(say: Callable[..., Said], finished: Any, digits: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    said = say("explain", finished.root, *digits, "--with", "rbf,gradient", "--out", out)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == f"{digits[0]}: true class 7, explained 7"
    assert re.fullmatch(r"  original: (\d \d\.\d\d(, )?){3}; slim: (\d \d\.\d\d(, )?){3}", lines[1])
    assert re.match(
        r"  rbf: centre moved [\d.]+ px, overlap of regions \d+ %, rank correlation -?[\d.]+, top", lines[2]
    )
    assert lines[3].startswith("  gradient: centre moved ")
    assert lines[4] == f"  picture: {out / 'wide.png'}"
    assert lines[5].startswith(f"{digits[1]}: true class not known, explained ")
    assert sorted(path.name for path in out.iterdir()) == ["tall.png", "wide.png"]
    heights = {Image.open(path).height for path in out.iterdir()}
    assert len(heights) == 1  # resized to the run's side: not as tall as they came


def test_a_class_by_name_or_index_is_the_one_explained(
    say: Callable[..., Said], finished: Any, digits: list[Path], tmp_path: Path
) -> None:
    said = say("explain", finished.root, digits[1], "--class", "3", "--out", tmp_path / "o")
    assert said.code == 0, said.err
    assert "true class 3, explained 3" in said.out
    assert "  rbf: " in said.out  # the run's own, where none is named


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "12"], "--class 12: there is no class 12; give a name (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) or an index"),
        (["--class", "dog"], "--class 'dog' is not a class; give a name (0, 1"),
        (["--with", "gradients"], "unknown explainer 'gradients'; did you mean 'gradient'? (choose from: rbf, "),
        (["--with", "rbf,,gradient"], "has an empty name"),
    ],
)
def test_bad_options_are_one_sentence(
    say: Callable[..., Said], finished: Any, digits: list[Path], tmp_path: Path, options: list[str], words: str
) -> None:
    said = say("explain", finished.root, digits[0], *options, "--out", tmp_path / "o")
    assert said.code == 2
    assert words in " ".join(said.error.split())
    assert not (tmp_path / "o").exists()


def test_images_that_cannot_be_read_are_named(
    say: Callable[..., Said], finished: Any, digits: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    for path, words in (
        (tmp_path / "none.png", "there is no image"),
        (text, "is not an image that can be read"),
        (tmp_path / "any", "is a folder; give the images in it"),
    ):
        said = say("explain", finished.root, digits[0], path, "--out", tmp_path / "o")
        assert said.code == 2
        assert words in " ".join(said.error.split())
        assert str(path) in said.error.replace("\n", "")
    assert not (tmp_path / "o").exists()


def test_a_run_that_is_not_finished_says_so(
    say: Callable[..., Said], finished: Any, digits: list[Path], tmp_path: Path
) -> None:
    root = finished.unfinished(tmp_path / "run", "finetune")
    said = say("explain", root, digits[0])
    assert said.code == 2
    assert "has no finished slim model yet; run 'slimsight run' again" in " ".join(said.error.split())


def test_a_run_without_an_explainer_takes_others() -> None:
    with pytest.raises(ConfigError, match=r"no explainer of its own .* name others with --with"):
        parse_explainers(None, None)
    assert parse_explainers(None, "rbf") == ["rbf"]
    assert parse_explainers("gradient, grad_cam,gradient", None) == ["gradient", "grad_cam"]
    models = ModelPair(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), None, None)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"^explainer 'rbf' is learned, and this run has none \(choose from: centre, const"
    ):
        models.explainers("rbf")


def test_classes_whose_names_are_numbers_go_by_name() -> None:
    assert parse_class("2", ["5", "2", "9"]) == 1
    assert parse_class("0", ["5", "2", "9"]) == 0
    with pytest.raises(ConfigError, match="did you mean 'horse'"):
        parse_class("hors", ["cat", "horse"])
    with pytest.raises(ConfigError, match=r"class -1; give a name \(c0, .* and 10 more\) or an index from 0 to 29"):
        parse_class("-1", [f"c{index}" for index in range(30)])


def test_images_are_resized_as_everywhere(digits: list[Path]) -> None:
    assert read_images(digits, Preprocessing.square(16)).shape == (2, 3, 16, 16)
    with pytest.raises(DataError, match="there is no image"):
        read_images([digits[0].with_name("x.png")], Preprocessing.square(16))


def test_pictures_never_overwrite_each_other(tmp_path: Path) -> None:
    paths = [Path("a/1.png"), Path("b/1.png"), Path("b/1.jpg"), Path("c/2.png")]
    assert [file.name for file in picture_files(paths, tmp_path)] == ["a-1.png", "b-1.png", "b-1-2.png", "2.png"]


def test_words_for_every_case() -> None:
    assert drift_text(ExplainerDrift("rbf", None, None, None, None)) == ["both maps are constant"]
    assert drift_text(ExplainerDrift("rbf", None, 0.0, None, True))[-1] == "the explanation is lost"
    assert drift_text(ExplainerDrift("rbf", 1.26, 0.5, 0.25, False))[0] == "centre moved 1.3 px"
    assert top_classes(np.array([0.2, 0.7, 0.1]), ["a", "b", "c"], 2) == "b 0.70, a 0.20"


def test_looks_say_what_maps_cannot() -> None:
    maps = torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.eye(4)])
    flat, zero, eye = to_drawable(Saliency(maps, uncertainty=torch.full((3, 4, 4), 0.5)))
    assert (flat.degenerate, zero.degenerate, eye.degenerate) == ("constant map", "nothing above zero", None)
    assert flat.centre is None
    assert eye.centre == (1.5, 1.5)
    assert eye.region.sum() == 2
    assert eye.uncertainty is not None
    assert float(eye.uncertainty[0, 0]) == 0.5


def test_the_run_measures_and_shows_its_drift(finished: Any, cache: Path) -> None:
    found = finished.report.saliency
    maps = found.maps
    assert (
        found.images == maps.images == len(Session(finished.recipe, read_run(finished.root), SILENT, cache).splits.val)
    )
    assert maps.center_px.mean == pytest.approx(found.center_drift_px, rel=1e-4)  # rbf's own centres, both
    assert maps.center_px.standard_error > 0
    overlaps = [image.region_iou for image in maps.worst]
    assert len(overlaps) == 8
    assert overlaps == sorted(overlaps)
    assert overlaps[-1] < maps.region_iou.mean
    with Image.open(finished.root / "drift.png") as picture:
        assert picture.width == 1600
    text = (finished.root / "report.md").read_text(encoding="utf-8")
    assert "![Images whose explanations drifted most, original and slim](drift.png)" in text
    assert f"{100 * maps.moved.mean:.1f} %" in text
    written = json.loads((finished.root / "report.json").read_text(encoding="utf-8"))["saliency"]
    assert {"explainer", "center_drift_px", "sigma_drift_px", "iou", "images", "area", "selector"} <= written.keys()
    assert "explainer" not in written["maps"]


def test_the_report_names_maps_that_say_nothing(finished: Any) -> None:
    assert "Maps that say nothing" not in render_markdown(finished.report)
    content = finished.report.model_dump(mode="json", by_alias=True)
    content["saliency"]["maps"] |= {"lost": 0.05}
    content["saliency"]["maps"]["degenerate"]["slim"] = {"constant": 1200, "zero": 3}
    text = render_markdown(Report.model_validate_json(json.dumps(content)))
    assert "1,200 of the slim model are constant; 3 of the slim model have nothing above zero" in text
    assert "On 5.0 % of the images only one model has an explanation." in text
