from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ConfigError, ExportError, RunError
from slimsight.deploy.bench.models import common_image_size, find_baseline, find_models
from slimsight.export.to_onnx import export_onnx


def _onnx(path: Path, side: int) -> Path:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(model, torch.zeros(1, 3, side, side), path)
    return path


def test_names_say_which_is_which(tmp_path):
    for folder in ("one", "two"):
        _onnx(tmp_path / folder / "model.onnx", 8)
    given = [tmp_path / "one" / "model.onnx", tmp_path / "two" / "model.onnx", tmp_path / "one" / "model.onnx"]
    assert [s.name for s in find_models(given)] == ["one/model.onnx", "two/model.onnx", "one/model.onnx (2)"]
    assert [s.name for s in find_models(given[:1] * 2)] == ["model.onnx", "model.onnx (2)"]


def test_a_run_is_its_models(finished):
    original, slim = find_models([finished.root])
    assert (original.name, slim.name) == ("original", "slim")
    assert set(original.files) == {".onnx"}
    assert set(slim.files) == {".onnx", ".pt2"}
    assert common_image_size([original, slim]) == ((16, 16), {})
    two = find_models([finished.root, finished.root])
    assert [s.name for s in two] == [
        "finished: original",
        "finished: slim",
        "finished: original (2)",
        "finished: slim (2)",
    ]


def test_what_a_model_costs_comes_from_its_report_or_its_file(finished, tmp_path):
    report = finished.report
    original, slim = find_models([finished.root])
    assert (original.macs, original.test_accuracy) == (report.original.macs, report.original.test_accuracy)
    assert (slim.macs, slim.test_accuracy) == (report.slim.macs, report.slim.test_accuracy)
    (alone,) = find_models([finished.root / "slim" / "model.onnx"])
    assert (alone.macs, alone.test_accuracy) == (report.slim.macs, None)
    foreign = _onnx(tmp_path / "foreign.onnx", 8)
    proto = onnx.load(foreign)
    del proto.metadata_props[:]
    onnx.save(proto, foreign)
    assert find_models([foreign])[0].macs is None
    proto.metadata_props.add(key="macs", value="many")
    onnx.save(proto, foreign)
    with pytest.raises(ExportError, match="states 'many' MACs, which is not a valid number: export the model again"):
        find_models([foreign])


def test_engines_that_were_exported_belong_to_the_run(finished, tmp_path):
    root = finished.copy(tmp_path / "run")
    (root / "export").mkdir()
    for precision in ("fp16", "fp32"):
        (root / "export" / f"model.tensorrt-rtx.{precision}.engine").write_bytes(b"x")
    _, slim = find_models([root], allow_code=True)
    assert {name: path.name for name, path in slim.engines.items()} == {
        "tensorrt-rtx": "model.tensorrt-rtx.fp32.engine"
    }


def test_a_run_s_modules_are_rebuilt_with_their_weights(finished):
    import numpy as np

    from slimsight.export.runners import OnnxRunner, TorchRunner

    images = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    for subject in find_models([finished.root]):
        with TorchRunner(subject.open("torch")) as module, OnnxRunner(subject.files[".onnx"]) as file:
            np.testing.assert_allclose(module.run(images), file.run(images), atol=1e-4)


def test_engines_belong_to_the_runtime_that_they_were_built_for(tmp_path):
    for name in ("a.engine", "b-rtx.engine", "c.engine"):
        (tmp_path / name).write_bytes(b"engine")
    (tmp_path / "c.engine.json").write_text(json.dumps({"key": {"flavour": "tensorrt-rtx"}}))
    found = find_models([tmp_path / name for name in ("a.engine", "b-rtx.engine", "c.engine")])
    assert [list(subject.engines) for subject in found] == [["tensorrt"], ["tensorrt-rtx"], ["tensorrt-rtx"]]
    assert found[0].path_for("tensorrt") == tmp_path / "a.engine"
    assert found[0].missing_reason("tensorrt-rtx") == "there is no engine of tensorrt-rtx of it"
    (tmp_path / "c.engine.json").write_text("{")
    with pytest.raises(ConfigError, match=r"c\.engine\.json is not valid JSON .*: build the engine again"):
        find_models([tmp_path / "c.engine"])
    (tmp_path / "a.engine").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.engine is empty: build the engine again"):
        find_models([tmp_path / "a.engine"])


def test_the_baseline_is_the_first_or_the_named(tmp_path):
    path = _onnx(tmp_path / "model.onnx", 8)
    subjects = find_models([path, path])
    assert find_baseline(subjects, None).name == "model.onnx"
    assert find_baseline(subjects, "model.onnx (2)").name == "model.onnx (2)"
    with pytest.raises(
        ConfigError, match=r"no model is called 'x' \(choose the baseline from: model.onnx, model.onnx \(2\)"
    ):
        find_baseline(subjects, "x")


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    whole = _onnx(tmp_path / "model.onnx", 8).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.pt2").write_bytes(b"PK\x03\x04")
    for given, error, message in (
        ([], ConfigError, "no model was given"),
        (["weights.pt"], ConfigError, r"weights\.pt is none of them: give run directories or files \(\.onnx"),
        (["none.onnx"], ConfigError, r"there is no .*none\.onnx"),
        (["folder"], RunError, "is not the folder of a run"),
        (["cut.onnx"], ExportError, r"cut\.onnx is not an ONNX file, or only a part of one"),
        (["cut.pt2"], ExportError, r"cut\.pt2 is not a \.pt2"),
    ):
        with pytest.raises(error, match=message):
            common_image_size(find_models([tmp_path / name for name in given]))


def test_models_of_different_image_sizes_are_not_compared(tmp_path):
    given = [_onnx(tmp_path / "a.onnx", 8), _onnx(tmp_path / "b.onnx", 12)]
    with pytest.raises(ConfigError, match=r"different sizes \(a\.onnx takes 8 x 8, b\.onnx takes 12 x 12 pixels\)"):
        common_image_size(find_models(given))
