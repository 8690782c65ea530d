"""A run whose recipe asks for INT8: files, proof rows, report, verdict, and what is refused early."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.progress import SILENT
from slimsight.deploy.report import Report, read_report
from slimsight.deploy.run.pipeline import run_recipe, stage_fingerprints, to_stages
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.export.int8.fidelity import compare_accuracy
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.onnx_files.layers_run import LayersRun
from slimsight.export.onnx_files.metadata import read_metadata
from slimsight.export.runners import choose

from .runs import Rerun, reused

INT8 = ("export.formats=[onnx]", "export.precision=[fp32,int8]", "export.int8.images=64")


@pytest.fixture(scope="module")
def quantised(tiny: Path, cache: Path, finished: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The finished run's stages, exported in INT8 too; accuracy is judged."""
    root = tmp_path_factory.mktemp("int8") / "run"
    control = ["export.int8.accuracy_control.sqnr_db=1", "export.int8.accuracy_control.images=40"]
    recipe = load_recipe(tiny, [*INT8, "export.int8.forms=[u8,s8]", "checks.accuracy_drop=90%", *control])
    return root, run_recipe(recipe, root, name=tiny.name, reuse=finished.root, cache=cache)


def test_only_what_int8_changes_runs_again(quantised: tuple[Path, Report]) -> None:
    assert reused(quantised[1]) == ["classifier", "predictor", "selector", "targets", "gates", "surgery", "finetune"]


def test_the_files_lie_beside_their_fp32_form_and_say_what_they_are_for(quantised: tuple[Path, Report]) -> None:
    root, report = quantised
    names = {"slim/model.int8.onnx": "u8", "slim/model.int8.trt.onnx": "s8", "original.int8.onnx": "u8"}
    assert report.int8 is not None
    assert {file.artifact: file.form for file in report.int8.files} == names
    for file in report.int8.files:
        stored = read_metadata(root / file.artifact)
        assert (stored.precision, stored.all["int8_form"]) == ("int8", file.form)
        assert (file.size_bytes, file.layers) == ((root / file.artifact).stat().st_size, 6)
        assert file.size_bytes < 0.6 * file.fp32_size_bytes
    record = read_run(root).record("export")
    assert record is not None
    assert {str(name) for name in record.files} >= {*names}


def test_calibration_images_are_training_images_and_the_report_says_which(
    quantised: tuple[Path, Report], cache: Path
) -> None:
    root, report = quantised
    run = read_run(root)
    session = Session(load_recipe(run.recipe), run, SILENT, cache)
    assert report.int8 is not None
    made = report.int8.calibration
    train = session.opened.train
    assert (made.images, len(made.rows), made.rows[0], made.rows[-1]) == (64, 64, 0, len(train) - 1)
    pixels = np.asarray(train.images[np.array(made.rows)])
    assert made.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert read_metadata(root / "slim/model.int8.onnx").all["int8_calibration_sha256"] == made.sha256


def test_the_proof_names_what_runs_in_integers_and_what_it_costs(quantised: tuple[Path, Report], cache: Path) -> None:
    root, report = quantised
    assert report.int8 is not None
    file = report.int8.slim
    assert file is not None
    ran = ["onnxruntime-cpu", *(["openvino"] if find_spec("openvino") else [])]
    assert [row.runtime for row in file.runtimes] == ran
    assert {(row.passed, row.integer_layers, row.float_layers) for row in file.runtimes} == {(True, 6, ())}
    assert file.integer_share == 1.0
    assert file.explanations is not None
    assert (file.explanations.explainer, file.explanations.images) == ("occlusion", 32)
    assert file.explanations.region_iou is not None
    assert file.explanations.region_iou.mean is not None
    assert 0.5 < file.explanations.region_iou.mean <= 1
    session = Session(load_recipe(read_run(root).recipe), read_run(root), SILENT, cache)
    val, test = session.splits.val, session.splits.test()
    for images, stated in ((val, file.val), (test, file.test)):
        pixels, labels = np.asarray(images.images), images.labels
        logits = [onnx_logits(root / "slim" / name, pixels) for name in ("model.onnx", "model.int8.onnx")]
        assert stated is not None
        assert stated.model_dump() == pytest.approx(compare_accuracy(*logits, labels).to_dict(), abs=1e-6)
    assert file.val.fp32 == pytest.approx(report.slim.val_accuracy, abs=1e-6)
    assert file.test is not None
    assert file.test.fp32 == pytest.approx(report.slim.test_accuracy, abs=1e-6)
    assert report.int8.files[2].test is None  # the original's file is compared on validation images


def test_layers_are_chosen_on_training_images_that_int8_is_not_calibrated_on(quantised: tuple[Path, Report]) -> None:
    found = quantised[1].int8
    assert found is not None
    slim, engine, original = (file.accuracy_control for file in found.files)
    assert original is None  # it is there to compare with
    assert slim is not None
    assert engine is not None
    assert (slim.images, len(set(slim.rows)), slim.limits.sqnr_db, slim.layers_kept) == (40, 40, 1, ())
    assert not set(slim.rows) & set(found.calibration.rows)
    assert engine.rows == slim.rows


def test_the_int8_file_is_timed_in_turn_with_the_others(quantised: tuple[Path, Report]) -> None:
    (row,) = quantised[1].latency
    assert row.precision == "fp32"
    assert row.int8_ms is not None
    assert row.int8_speedup is not None
    assert 0 < row.int8_speedup.low <= row.int8_speedup.median <= row.int8_speedup.high


def test_the_verdict_judges_the_file_that_ships(quantised: tuple[Path, Report]) -> None:
    report = quantised[1]
    assert report.int8 is not None
    assert report.int8.slim is not None
    checks = {check.name: check for check in report.verdict.checks}
    assert checks["INT8 proof, runtimes passed"].value == (2 if find_spec("openvino") else 1)
    noise = checks["INT8, signal to quantisation noise on validation images"]
    assert (noise.limit, noise.value, noise.unit) == (1, report.int8.slim.fidelity.sqnr_db, "dB")
    drop = checks["validation accuracy drop, INT8 against the original"]
    assert drop.limit == 0.9
    lost = (report.original.val_accuracy or 0) - report.int8.slim.val.int8
    assert drop.value == pytest.approx(lost, abs=1e-6)
    assert round(drop.value * report.int8.slim.val.images, 6) % 1 == 0  # whole images: no rounding of float32


def test_the_pages_show_it(quantised: tuple[Path, Report]) -> None:
    root, report = quantised
    assert read_report(root / "report.json").int8 == report.int8
    markdown = (root / "report.md").read_text(encoding="utf-8")
    section = markdown[markdown.index("\n## INT8\n") :]
    assert "`slim/model.int8.onnx`" in section
    assert "6 of 6" in section
    assert "Ranges of values: minmax, on 64 training images" in section
    page = (root / "report.html").read_text(encoding="utf-8")
    assert '<section id="int8"' in page
    assert '<a href="#int8">INT8</a>' in page


@pytest.mark.usefixtures("undrawn")
def test_a_run_trains_its_slim_file_with_rounding_and_says_what_that_brought(
    quantised: tuple[Path, Report], rerun: Rerun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(quantised[0], tmp_path / "run"))
    report = rerun(root, *INT8, "checks.accuracy_drop=90%", "export.int8.qat.epochs=2", "export.int8.qat.lr=1e-4")
    assert report.int8 is not None
    slim, original = report.int8.files
    assert original.qat is None  # it is there to compare with
    assert slim.qat is not None
    assert (slim.qat.epochs, slim.qat.score, slim.qat.kept) == (2, "accuracy", True), slim.qat
    assert slim.qat.before.right <= slim.qat.after.right == pytest.approx(slim.val.int8, abs=0.02)
    proof = slim.runtimes[-1]
    assert (proof.runtime, proof.passed, proof.integer_layers) == ("pytorch, as trained", True, None)
    trained = read_metadata(root / slim.artifact).all
    assert (trained["int8_qat_epochs"], slim.layers) == (str(slim.qat.best_epoch), 6)
    page = (root / "report.md").read_text(encoding="utf-8")
    assert f"trained with rounding, epoch {slim.qat.best_epoch} of 2 is kept: validation accuracy " in page


@pytest.mark.usefixtures("undrawn")
def test_without_int8_the_run_is_as_before_and_no_file_stays(
    quantised: tuple[Path, Report], finished: Any, rerun: Rerun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(quantised[0], tmp_path / "run"))
    report = rerun(root, "export.formats=[onnx]")
    assert report.int8 is None
    assert "int8" not in json.loads((root / "report.json").read_text(encoding="utf-8"))
    assert not list(root.rglob("*int8*"))
    assert report.latency[0].int8_ms is None


def test_settings_of_int8_change_nothing_where_none_is_asked_for(tiny: Path, finished: Any, cache: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        recipe = load_recipe(tiny, overrides)
        session = Session(recipe, read_run(finished.root), SILENT, cache)
        return stage_fingerprints(to_stages(recipe), session)

    before, same, asked, other = keys(), keys("export.int8.images=99"), keys(*INT8[1:]), keys(INT8[1])
    unused, used = (keys(*INT8[1:], f"export.int8.accuracy_control.{what}") for what in ("images=99", "agreement=90%"))
    assert asked == unused != used
    trained, rate = keys(*INT8[1:], "export.int8.qat.epochs=1"), keys(*INT8[1:], "export.int8.qat.lr=1")
    assert asked == rate != trained
    assert trained["finetune"] == asked["finetune"]
    timed, in_int8 = (keys(*INT8[1:], f"budget={{macs: 50%, align: auto{more}}}") for more in ("", ", precision: int8"))
    assert timed["surgery"] != in_int8["surgery"]
    assert timed["gates"] == in_int8["gates"]
    assert before == same
    assert before["export"] == read_run(finished.root).record("export").fingerprint  # type: ignore[union-attr]
    changed = {name for name in before if before[name] != asked[name]}
    assert changed == {"export", "latency", "judgement"}
    assert asked["export"] != other["export"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["export.precision=[int8]"],
            r"export\.precision: .*made from the FP32 one; give \[fp32, int8\]",
        ),
        (["export.precision=[fp32,int8]", "export.formats=[pt2]"], r"INT8 files are ONNX files; add onnx to formats"),
        (["export.precision=[fp32,fp16]"], r"export\.precision.*fp16.*fp32 or int8"),
        (["export.int8.images=31"], r"export\.int8\.images.*31.*at least 32"),
        (["export.int8.method=mse"], r"export\.int8\.method.*mse.*minmax, entropy or percentile"),
        (["export.int8.forms=[u8,u8]"], r"forms u8, u8: name each of u8, s8 at most once"),
        (["export.int8.weights=per_row"], r"export\.int8\.weights.*per_row.*per_channel or per_tensor"),
        (
            ["export.int8.accuracy_control.agreement=97"],
            r"accuracy_control\.agreement: '?97'? is not a valid agreement",
        ),
        (["export.int8.accuracy_control.sqnr_db=0"], r"accuracy_control\.sqnr_db.*above 0"),
        (["export.int8.accuracy_control.max_float_layers=0"], r"accuracy_control\.max_float_layers.*at least 1"),
        (["export.int8.forms=[]"], r"export\.int8\.forms"),
        (["export.int8.qat.epochs=-1"], r"export\.int8\.qat\.epochs.*at least 0"),
        (["budget={macs: 50%, precision: int8}"], r"precision is int8, and no time decides the plan: give latency"),
        (["budget={latency: 50%, precision: int8}"], r"the run writes no INT8 file for ONNX Runtime: set export\.prec"),
        (
            [*INT8, "budget={latency: 50%, precision: int8}", "latency.runtime=openvino"],
            r"budget\.precision is int8 and latency\.runtime is openvino: integer kernels are timed in onnxruntime-cpu",
        ),
        (["export.int8.qat.lr=0"], r"export\.int8\.qat\.lr.*above 0"),
    ],
)
def test_what_a_recipe_cannot_ask_for_is_said_before_anything_runs(
    overrides: list[str], message: str, tiny: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(tiny, overrides)


def test_a_model_without_a_convolution_is_refused_before_it_is_trained(
    rerun: Rerun, tiny: Path, tmp_path: Path
) -> None:
    linear = f"model.name={tiny.with_name('tiny.py')}:no_feature_maps"
    with pytest.raises(ExportError, match=r"has no convolution, and export\.precision has int8"):
        rerun(tmp_path / "run", linear, "explainer.enabled=false", "gates.steer=magnitude", *INT8)
    assert not (tmp_path / "run" / "stages" / "classifier" / "done.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_runtime_that_computes_something_else_fails_the_run_by_name(
    say: Callable[..., Any], tiny: Path, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime does with a layer that a file keeps in FP32: it is quantised again when the file is opened."""
    layers = LayersRun(("net.0.0/Conv",), (), ("net.0.0/Conv",), ())
    runtime = replace(choose.RUNTIMES["onnxruntime-cpu"], precision_readback=lambda _path: layers)
    monkeypatch.setattr(choose, "RUNTIMES", {runtime.name: runtime})
    options = [word for override in (*INT8, "checks.accuracy_drop=null") for word in ("--set", override)]
    said = say("run", tiny, "--out", tmp_path / "run", "--reuse", finished.root, *options)
    assert said.code == 1
    why = "onnxruntime-cpu: it quantises layers that the file keeps in FP32: net.0.0/Conv"
    assert re.search(r"^the same, slim in INT8 .* as fast \(", said.out, re.MULTILINE)
    assert re.search(r"^slim/model\.int8\.onnx +the same in INT8, for ONNX Runtime", said.out, re.MULTILINE)
    assert f"FAILED INT8 proof, runtimes passed: 0 (at least 1): {why}\n" in said.out


def test_files_are_valid_onnx(quantised: tuple[Path, Report]) -> None:
    for path in quantised[0].rglob("*int8*.onnx"):
        onnx.checker.check_model(onnx.load(path), full_check=True)
