"""A check believes a report only as far as the run's records and the MACs of its ONNX files bear it out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.deploy.report import read_report
from slimsight.deploy.run_dir import open_run
from slimsight.export.costs.of_onnx import onnx_cost

from ..conftest import Said

Check = Callable[[], str]


@pytest.fixture
def run(finished: Any, tmp_path: Path) -> Path:
    root: Path = finished.copy(tmp_path / "run")
    return root


@pytest.fixture
def refused(run: Path, say: Callable[..., Said], tmp_path: Path) -> Check:
    """Why a check of the run ends with exit code 2."""
    budget = tmp_path / "budget.yaml"
    budget.write_text("macs: 90%\n")

    def check() -> str:
        said = say("check", run, "--budget", budget)
        assert said.code == 2, said
        return " ".join(str(said.error).split())

    return check


def claim(run: Path, macs: int) -> None:
    """Let the report claim other MACs of the slim model."""
    report = json.loads((run / "report.json").read_text())
    report["slim"]["macs"] = macs
    (run / "report.json").write_text(json.dumps(report))


def record_again(run: Path) -> None:
    """Make the records of the export and of the report fit the files that lie there now."""
    inputs = json.loads((run / "stages/report/done.json").read_text())["inputs"]
    with open_run(run) as opened:
        done = json.loads((run / "stages/export/done.json").read_text())
        files = [run / name for name in done["files"]]
        export = opened.finish("export", done["fingerprint"], 1, done["metrics"], files, done["inputs"])
        opened.finish("report", "", 0, {}, [run / "report.json"], {**inputs, "export": export.content})


def test_what_is_counted_in_the_files_of_a_run_is_what_its_report_says(run: Path) -> None:
    report = read_report(run)
    assert onnx_cost(run / "original.onnx").macs == report.original.macs
    assert onnx_cost(run / "slim/model.onnx").macs == report.slim.macs < report.original.macs


def test_an_edited_report_without_its_record_is_refused(run: Path, refused: Check) -> None:
    claim(run, 1)
    shutil.rmtree(run / "stages/report")
    said = refused()
    assert f"{run} has no record of its report ({run}/stages/report/done.json), so nothing shows" in said
    assert f"'slimsight run RECIPE --out {run}' writes what is missing" in said


def test_a_report_without_any_record_is_refused(run: Path, refused: Check) -> None:
    shutil.rmtree(run / "stages")
    (run / "stages").mkdir()
    assert "has no record of its report" in refused()


@pytest.mark.parametrize("stage", ["export", "finetune"])
def test_the_record_of_another_result_is_refused(run: Path, refused: Check, stage: str) -> None:
    with open_run(run) as opened:
        done = json.loads((run / f"stages/{stage}/done.json").read_text())
        opened.finish(stage, done["fingerprint"], 1, {}, [], done["inputs"])
    assert f"the report of {run} is not of the stage '{stage}' that lies there" in refused()


def test_the_original_in_the_place_of_the_slim_model_is_refused(run: Path, refused: Check) -> None:
    report = read_report(run)
    shutil.copy(run / "original.onnx", run / "slim/model.onnx")
    record_again(run)
    assert (
        f"slim/model.onnx has {report.original.macs:,} MACs, but {run}/report.json says {report.slim.macs:,}: they are "
        "not of one run"
    ) in refused()


def test_a_claim_of_fewer_or_more_macs_than_are_counted_is_refused(run: Path, refused: Check) -> None:
    macs = read_report(run).slim.macs
    for claimed in (macs - 1, macs + 1):
        claim(run, claimed)
        record_again(run)
        assert f"slim/model.onnx has {macs:,} MACs, but {run}/report.json says {claimed:,}" in refused()


def test_a_file_that_no_stage_made_is_no_evidence(run: Path, refused: Check) -> None:
    (run / "stages/export/done.json").unlink()
    with open_run(run) as opened:
        inputs = {name: text for name, text in opened.record("report").inputs.items() if name != "export"}  # type: ignore[union-attr]
        opened.finish("report", "", 0, {}, [run / "report.json"], inputs)
    assert f"{run}/slim/model.onnx is in no record of the run" in refused()


def test_a_run_that_is_being_written_is_not_judged(run: Path, refused: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(run, 1)
    monkeypatch.setattr("slimsight.deploy.run_dir.run.lock_holder", lambda _root: 4711)
    assert f"process 4711 is writing {run}: wait until it has finished" in refused()


def test_a_baseline_needs_its_record_too(run: Path, finished: Any, say: Callable[..., Said], tmp_path: Path) -> None:
    shutil.rmtree(run / "stages/report")
    (tmp_path / "budget.yaml").write_text(f"macs: 90%\nbaseline: {run}\n")
    said = say("check", finished.root, "--budget", tmp_path / "budget.yaml")
    assert said.code == 2
    assert "has no record of its report" in " ".join(str(said.error).split())
