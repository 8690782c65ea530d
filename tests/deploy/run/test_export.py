"""``slimsight export`` as a user meets it, on a finished run."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slimsight.compress.errors import ConfigError, Damaged
from slimsight.deploy.run.export import read_batch, read_choices
from slimsight.deploy.run_dir.exports import check_exports
from slimsight.export.engines.result import BatchProfile
from slimsight.export.onnx_files.metadata import read_metadata

from ..conftest import Said

CPU_ONE = ("onnxruntime-cpu", 1)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_are_what_the_run_exported_and_their_figures_lie_beside_them(
    say: Callable[..., Said], finished: Any, tmp_path: Path
) -> None:
    said = say("export", finished.root, "--to", "onnx,pt2", "--batch", "1:3:5", "--out", tmp_path)
    assert said.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "model.onnx", "model.pt2"]
    assert (tmp_path / "model.onnx").read_bytes() == (finished.root / "slim/model.onnx").read_bytes()
    found = json.loads((tmp_path / "export.json").read_text())
    assert (found["schema"], found["passed"], found["skipped"]) == (1, True, [])
    assert [file["file"] for file in found["files"]] == ["model.onnx", "model.pt2"]
    for file in found["files"]:
        path = tmp_path / file["file"]
        assert (file["sha256"], file["size_bytes"]) == (digest(path), path.stat().st_size)
        on_cpu = [row for row in file["parity"] if row["runtime"].endswith("-cpu")]
        assert [row["batch"] for row in on_cpu] == [1, 3, 5] * len({row["runtime"] for row in on_cpu})
        for row in file["parity"]:
            assert row["passed"]
            assert row["median_abs"] <= row["p99_abs"] <= row["max_abs"] <= 1e-4
    runtimes = {row["runtime"] for row in found["files"][0]["parity"]}
    runtimes |= {item["runtime"] for item in found["files"][0]["not_run"]}
    assert runtimes == {"onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino-cpu"}
    told = found["files"][0]["metadata"]
    assert told["macs"] == str(finished.report.slim.macs)
    assert json.loads(told["classes"]) == [str(digit) for digit in range(10)]
    made = json.loads((finished.root / "stages/finetune/done.json").read_text())
    assert told["recipe_hash"] == made["fingerprint"]
    assert re.search(r"^model\.onnx +\S+ kB +onnxruntime-cpu +fp32 +1 .* ok *$", said.out, re.MULTILINE), said.out
    assert said.out.splitlines()[-1] == f"figures: {tmp_path / 'export.json'}"


def test_half_precision_and_engines_lie_beside_the_file_they_come_from(
    say: Callable[..., Said], finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as where it is not installed
    said = say(
        "export", finished.root, "--to", "onnx,tensorrt,tensorrt-rtx", "--precision", "fp16,fp32", "--out", tmp_path
    )
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "export.json").read_text())
    files = {file["file"]: file for file in found["files"]}
    assert list(files) == [
        "model.onnx",
        "model.fp16.onnx",
        "model.tensorrt-rtx.fp32.engine",
        "model.tensorrt-rtx.fp16.engine",
    ]
    half = onnx.load(tmp_path / "model.fp16.onnx")
    assert {tensor.data_type for tensor in half.graph.initializer} >= {onnx.TensorProto.FLOAT16}
    assert files["model.fp16.onnx"]["metadata"] == files["model.onnx"]["metadata"] | {"precision": "fp16"}
    (row,) = [row for row in files["model.fp16.onnx"]["parity"] if (row["runtime"], row["batch"]) == CPU_ONE]
    assert row["passed"]
    assert row["precision"] == "fp16"
    for precision, kind in (("fp32", "float32"), ("fp16", "float16")):
        file = files[f"model.tensorrt-rtx.{precision}.engine"]
        assert (file["engine"]["precision"], file["precision"]) == (precision, precision)
        assert max(file["engine"]["layers"], key=file["engine"]["layers"].get) == kind
        assert file["engine"]["profile"] == {"min": 1, "opt": 1, "max": 32}
        assert file["parity"] or "CUDA device" in file["not_run"][0]["reason"]
    assert [item["what"] for item in found["skipped"]] == [
        "model.tensorrt.fp32.engine",
        "model.tensorrt.fp16.engine",
    ]
    assert "pip install 'slimsight[tensorrt]'" in said.out
    check_exports(tmp_path)
    for damage in (b"0", None):
        beside = tmp_path / "model.tensorrt-rtx.fp16.engine.json"
        beside.write_bytes(beside.read_bytes() + damage) if damage else beside.unlink()
        with pytest.raises(Damaged, match=rf"{beside.name} (was changed|is gone).*slimsight export RUN"):
            check_exports(tmp_path)
    alone = say("export", finished.root, "--to", "tensorrt", "--out", tmp_path / "alone")
    assert (alone.code, "not written: model.tensorrt.fp32.engine: TensorRT is missing" in alone.out) == (0, True)


def test_the_runs_own_files_say_where_they_come_from(finished: Any) -> None:
    original, slim = (read_metadata(finished.root / name) for name in ("original.onnx", "slim/model.onnx"))
    assert (original.macs, slim.macs) == (finished.report.original.macs, finished.report.slim.macs)
    assert original.recipe != slim.recipe
    assert original.mean == slim.mean
    assert slim.class_count == 10


def test_an_artefact_that_differs_is_exit_1_and_its_layer_is_named(
    say: Callable[..., Said], finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_wrongly(_model: object, _example: object, path: Path, **_options: object) -> None:
        proto = onnx.load(finished.root / "slim/model.onnx")
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "net.2.0.weight")
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(proto, path)

    monkeypatch.setattr("slimsight.deploy.run.export_files.export_onnx", copy_wrongly)
    root = finished.copy(tmp_path / "run")
    said = say("export", root, "--to", "onnx")
    assert said.code == 1
    assert re.search(
        r"error: (2 of 2|4 of 4) comparisons failed, see the lines marked FAILED; figures: .*export\.json", said.err
    )
    assert said.out.count("FAILED model.onnx in onnxruntime-cpu, batch ") == 2
    assert "first differs in net.2.0/Conv: by" in said.out
    found = json.loads((root / "export" / "export.json").read_text())
    assert not found["passed"]
    assert found["files"][0]["parity"][0]["first_difference"].startswith("first differs in net.2.0/Conv")


def test_an_artefact_of_the_run_that_was_changed_is_refused_and_made_again_by_run(
    say: Callable[..., Said], finished: Any, tiny: Path, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    file = root / "slim" / "model.onnx"
    whole = file.read_bytes()
    half = len(whole) // 2
    for changed in (whole[:half], whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]):
        file.write_bytes(changed)
        said = say("export", root)
        assert (said.code, said.out) == (2, "")
        assert re.fullmatch(
            r"error: .*slim/model\.onnx (is cut off: \d+ of \d+ bytes are there|was changed since it was written: its "
            r"sha256 is \w{12}\.\.\., \w{12}\.\.\. was recorded); 'slimsight run RECIPE --out .*/run' rebuilds it and "
            r"keeps what is undamaged\n",
            said.error,
        )
    said = say("run", tiny, "--out", root)
    damage, before = said.err.splitlines()[:2]
    assert damage.startswith(f"{file} was changed since")
    assert damage.endswith(": stage 'export' is done again")
    assert before.startswith("done before: classifier, predictor, selector, targets, gates, surgery, finetune, lat")
    assert re.findall(r"^stage \d+ of \d+: (\w+)$", said.err, re.MULTILINE)[0] == "export"
    assert file.read_bytes() == (finished.root / "slim/model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--to", "onxn"],
            "--to is 'onxn'; did you mean 'onnx'?: choose from onnx, pt2, executorch, tensorrt, tensorrt-rtx",
        ),
        (["--to", ","], "--to is ',': choose from onnx, pt2, executorch, tensorrt, tensorrt-rtx"),
        (["--batch", "8:4:2"], "--batch is '8:4:2': give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX"),
        (["--to", "onnx", "--opset", "13"], "has no ONNX form at opset 13: its operators need opset 18; ask for"),
    ],
)
def test_wrong_options_are_one_sentence(
    say: Callable[..., Said], finished: Any, tmp_path: Path, options: list[str], words: str
) -> None:
    said = say("export", finished.root, "--out", tmp_path / "out", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.error
    assert said.error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_run_is_refused(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    said = say("export", tmp_path)
    assert said.code == 2
    assert "is not the folder of a run" in said.error
    said = say("export", finished.unfinished(tmp_path / "run", "finetune"))
    assert said.code == 2
    assert "run is not finished (stage 'finetune' is not done): complete it with 'slimsight run'" in said.error


def test_choices_and_batches() -> None:
    assert read_choices(" pt2,onnx,pt2", ("onnx", "pt2"), "--to") == ("pt2", "onnx")
    assert read_batch("2:8:32") == BatchProfile(2, 8, 32)
    assert read_batch("8") == BatchProfile(8, 8, 8)
    assert read_batch(None) is None
    assert BatchProfile(1, 1, 4).sizes == (1, 4)
    for wrong in ("", "a", "1:2", "0:1:2", "1:2:3:4", "-1:2:3", "1:x:3"):
        with pytest.raises(ConfigError, match="--batch is"):
            read_batch(wrong)


def test_int8_files_lie_beside_the_file_they_come_from_with_their_proof(
    say: Callable[..., Said], finished: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")
    options = ("--to", "onnx,tensorrt-rtx", "--precision", "int8", "--calibration", "48", "--method", "percentile")
    said = say("export", finished.root, *options, "--sqnr", "1", "--out", tmp_path)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "export.json").read_text())
    files = {file["file"]: file for file in found["files"]}
    assert {*files} == {"model.onnx", "model.int8.onnx", "model.int8.trt.onnx", "model.tensorrt-rtx.int8.engine"}
    proof = files["model.int8.onnx"]["int8"]
    assert (proof["form"], proof["method"], proof["calibration_images"]) == ("u8", "percentile", 48)
    assert (proof["runtimes"][0]["passed"], proof["runtimes"][0]["integer_layers"]) == (True, 6)
    assert read_metadata(tmp_path / "model.int8.onnx").precision == "int8"
    control = proof["accuracy_control"]
    assert (control["limits"], control["reached"], control["layers_kept"]) == ({"sqnr_db": 1}, True, [])
    assert "accuracy control: keeps its limits with all layers in INT8 (same class on " in said.out
    engine = files["model.tensorrt-rtx.int8.engine"]["engine"]
    assert len(engine["integer_layers"]) + len(engine["float_layers"]) == 6
    assert {"net.1.0/Conv", "net.2.0/Conv"} <= {*engine["integer_layers"]}
    assert found["passed"]
    assert "6 of 6 layers in integers" in said.out
    check_exports(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "int8", "--calibration", "31"), "--calibration is 31: INT8 needs at least 32 images"),
        (("--precision", "int8", "--method", "min"), "--method is 'min'"),
        (
            ("--calibration", "64"),
            "--calibration, --method, --agreement, --sqnr, --max-float-layers and --qat-epochs are of",
        ),
        (("--agreement", "97%"), "--qat-epochs are of INT8 files: add int8 to --precision"),
        (("--qat-epochs", "1"), "--qat-epochs are of INT8 files: add int8 to --precision"),
        (("--precision", "int8", "--qat-epochs", "-1"), "--qat-epochs is -1: give 0 (no training) to 1000 epochs"),
        (("--precision", "int8", "--sqnr", "0"), "--sqnr is 0.0: give a signal to noise ratio above 0"),
        (("--precision", "int8", "--max-float-layers", "2"), "without a limit to keep: give --agreement or --sqnr"),
        (("--precision", "int8", "--sqnr", "9", "--max-float-layers", "0"), "--max-float-layers is 0: give 1 to 1000"),
        (("--precision", "int4"), "--precision is 'int4'"),
    ],
)
def test_options_of_int8_that_do_not_fit_are_refused(
    options: tuple[str, ...], message: str, say: Callable[..., Said], finished: Any
) -> None:
    said = say("export", finished.root, *options)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
