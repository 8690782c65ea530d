import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slimsight.compress.progress import SILENT
from slimsight.deploy.report.html import read_page, render_run
from slimsight.deploy.run.assemble import assemble_report, draw_pictures
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import RunDir, read_run


def test_every_figure_is_the_one_its_stage_measured(finished: Any) -> None:
    def metrics(stage: str) -> dict[str, Any]:
        return json.loads((finished.root / "stages" / stage / "done.json").read_text())["metrics"]

    report = finished.report
    cut, judged, gates = metrics("surgery"), metrics("judgement"), metrics("gates")
    assert report.original.val_accuracy == metrics("classifier")["val_accuracy"]
    assert report.original.test_accuracy == judged["original_test_accuracy"]
    assert report.slim.val_accuracy == metrics("finetune")["val_accuracy"]
    statistics = metrics("finetune")["statistics"]
    figures = report.statistics.model_dump()
    assert {name: figures[name] for name in statistics} == statistics
    assert report.slim.val_accuracy == statistics[f"{report.statistics.kept}_val_accuracy"]
    assert report.slim.val_accuracy == max(statistics["running_val_accuracy"], statistics["recalibrated_val_accuracy"])
    assert report.slim.test_accuracy == judged["slim_test_accuracy"]
    assert report.gated.val_accuracy == cut["gated_val_accuracy"]
    assert report.budget.macs_max == cut["limits"]["macs"] == report.original.macs // 2
    assert report.budget.macs_used == report.slim.macs / report.budget.macs_max
    assert report.saliency.center_drift_px == judged["saliency"]["center_drift_px"]
    assert report.saliency.selector.kl_centred_same_area == metrics("selector")["kl_centred_same_area"]
    assert report.gates.steer == "rbf"
    assert report.gates.soft_macs == gates["learned"]["soft_macs"]
    assert report.gates.hard_macs == report.slim.macs
    assert list(report.gates.history.ce) == gates["learned"]["history"]["ce"]
    percentiles = report.latency[0].percentiles_ms
    assert percentiles.slim[percentiles.percent.index(50)] == pytest.approx(report.latency[0].slim_ms.median, rel=1e-4)
    assert report.exactness.groups == 5
    assert [group.name for group in report.exactness.frozen_groups] == ["net.7"]
    assert {row.group: row.total for row in report.channels} == {
        "net.0.0": 16,
        "net.1.0": 24,
        "net.2.0": 24,
        "net.3.0": 24,
        "net.4.0": 32,
        "net.7": 10,
    }
    assert report.channels[-1].kept == 10
    assert (report.data.train, report.data.val, report.data.test) == (1295, 143, 359)
    assert report.data.image_size == 16
    made = report.data.preprocessing
    assert (made.resize, made.crop, made.stretch, made.interpolation) == (16, 16, False, "bilinear")
    assert (made.mean, made.std) == (finished.recipe.model.mean, finished.recipe.model.std)
    assert (made.layout, made.channels, made.range, made.normalisation) == ("NCHW", "RGB", "[0, 1]", "inside the file")
    said = "Every image: short side scaled to 16 pixels (bilinear), centre crop 16 x 16; the files take RGB in"
    assert said in (finished.root / "report.md").read_text()
    assert said in render_run(read_page(finished.root)).replace("\N{NO-BREAK SPACE}", " ")
    assert report.model.name == "tiny.py:tiny"
    assert report.recipe == "tiny.yaml"


def test_reused_stages_are_marked(finished: Any, cache: Path) -> None:
    run = read_run(finished.root)
    records = {stage.name: run.record(stage.name) for stage in finished.report.stages}
    report = assemble_report(Session(finished.recipe, run, SILENT, cache), "x.yaml", records, ["gates", "export"])
    assert [stage.name for stage in report.stages if stage.reused] == ["gates", "export"]
    assert report.recipe == "x.yaml"
    assert report.verdict == finished.report.verdict


def test_pictures_show_images_only_where_there_is_an_explainer(finished: Any, cache: Path, tmp_path: Path) -> None:
    for name, width in (("saliency.png", 1600), ("channels.png", 1600)):
        with Image.open(finished.root / name) as picture:
            assert picture.width == width
    root = finished.copy(tmp_path / "run")
    cut = read_run(root).record("surgery").metrics
    for name in ("saliency.png", "channels.png"):
        (root / name).unlink()
    recipe = finished.recipe.model_copy(
        update={"explainer": finished.recipe.explainer.model_copy(update={"enabled": False})}
    )
    draw_pictures(Session(recipe, RunDir(root, writable=True), SILENT, cache), cut)
    assert (root / "channels.png").is_file()
    assert not (root / "saliency.png").exists()
