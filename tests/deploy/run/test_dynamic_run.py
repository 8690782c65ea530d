"""A run with the dynamic variant: its stages, files and figures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.deploy.report import Report, read_report
from slimsight.deploy.run.pipeline import to_stages
from slimsight.deploy.settings.recipe import Recipe, load_recipe
from slimsight.export.onnx_files.metadata import read_metadata

from ..conftest import Said

QUICK = ("dynamic.enabled=true", "dynamic.epochs=2", "dynamic.finetune_epochs=1", "dynamic.verify_images=10")


def test_runs_without_a_dynamic_section_have_no_dynamic_stage() -> None:
    assert not any("dynamic" in stage.name for stage in to_stages(Recipe()))


def test_original_slim_and_dynamic_side_by_side(
    rerun: Callable[..., Report],
    say: Callable[..., Said],
    plain: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "run"
    report = rerun(root, *plain, *QUICK)
    found = report.dynamic
    assert found is not None
    assert found.macs_mean <= found.macs_max
    assert found.route_agreement == 1.0
    assert found.test_accuracy is not None
    assert len(found.masks) == len(found.verification.routes) == 4
    assert found.verification.images == 10
    assert found.verification.macs <= found.verification.macs_with_dense
    artefacts = {row.artifact for row in report.parity}
    assert {"dynamic/masked.onnx", "dynamic/routed.onnx"} <= artefacts
    assert all(row.passed for row in report.parity)
    assert report.latency[0].dynamic_ms is not None
    masked, routed = (read_metadata(root / "dynamic" / f"{form}.onnx") for form in ("masked", "routed"))
    learned = json.loads((root / "stages/dynamic/done.json").read_text())
    assert (masked.macs, masked.macs_mean) == (learned["metrics"]["macs_dense"], None)
    assert routed.macs_mean == pytest.approx(found.macs_mean, abs=1e-3)
    assert routed.macs_mean <= routed.macs <= masked.macs
    assert masked.recipe == routed.recipe == learned["fingerprint"]
    assert len(routed.classes) == routed.class_count == 10
    monkeypatch.setattr("slimsight.deploy.run.export.IMAGES", 20)
    said = say("export", root, "--to", "onnx,pt2")
    assert said.code == 0
    for form in ("masked", "routed"):
        assert (root / f"export/{form}.onnx").read_bytes() == (root / f"dynamic/{form}.onnx").read_bytes()
    assert "not written: dynamic model as pt2: a traced graph computes every channel" in said.out

    def unbuildable(source: Path, *_arguments: object, **_options: object) -> None:
        raise ExportError(f"TensorRT for RTX cannot build {source.name}: two conflicting equalities")

    monkeypatch.setattr("slimsight.deploy.run.export_files.export_engine", unbuildable)
    with monkeypatch.context() as patch:  # the slim model's engine is what was asked for: it has to be there
        said = say("export", root, "--to", "tensorrt-rtx", "--out", tmp_path / "none")
        assert (said.code, "cannot build model.onnx" in said.error) == (2, True)
        patch.setattr("slimsight.deploy.run.export_files.Files._slim", lambda _files: iter(()))
        said = say("export", root, "--to", "tensorrt-rtx", "--out", tmp_path / "some")
    assert said.code == 0, said.err
    assert "not written: routed.tensorrt-rtx.fp32.engine: TensorRT for RTX cannot build routed.onnx" in said.out
    assert (tmp_path / "some/routed.onnx").is_file()
    assert "MACs, dynamic, mean" in {check.name for check in report.verdict.checks}
    assert read_report(root / "report.json") == report
    text = (root / "report.md").read_text(encoding="utf-8")
    assert "## Original, slim and dynamic" in text
    assert "|  dynamic |" in text
    again = rerun(root, *plain, *QUICK, "dynamic.route=out")
    fresh = {stage.name for stage in again.stages if not stage.reused}
    assert fresh == {"dynamic_export", "latency"}


def test_bad_settings_are_refused_together(tiny: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(tiny, ["dynamic.macs=1.5", "dynamic.masks=1", "dynamic.route=both"])
    text = str(caught.value)
    assert "dynamic.macs: 1.5 was given; allowed: a number above 0 and below 1" in text
    assert "dynamic.masks: 1 was given; allowed: a whole number at least 2 and at most 64" in text
    assert "dynamic.route: 'both' was given; allowed: out or in_out" in text
