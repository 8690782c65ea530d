"""A package for ExecuTorch: exported, packaged and verified; skipped where ExecuTorch is not installed."""

import json

import pytest

from slimsight.compress.files.sealed import sha256_of_file

from .conftest import alone, verify

pytest.importorskip("executorch")


def test_a_run_becomes_a_package_that_runs_in_executorch_alone(say, finished, tmp_path):
    root = finished.copy(tmp_path / "run")
    said = say("export", root, "--to", "executorch")
    assert said.code == 0, said.err
    assert "model.pte: XNNPACK runs " in said.out
    (file,) = json.loads((root / "export/export.json").read_text(encoding="utf-8"))["files"]
    assert (file["kind"], file["parity"][0]["passed"]) == ("executorch", True)
    assert any(item["layer"].startswith("net.0") for item in file["delegation"]["delegated"])
    said = say("package", root, "--for", "executorch", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert sha256_of_file(tmp_path / "out/model.pte") == file["sha256"]
    code, printed, found = verify(tmp_path / "out")
    assert (code, found["outputs"]["difference"] < 1e-5) == (0, True), printed
    refused = "-slimsight,openvino,torchvision,jinja2"
    said = alone(tmp_path / "out/predict.py", refused, str(tmp_path / "out/golden/00-colour.png"))
    assert (said.returncode, len(said.stdout.splitlines())) == (0, 5), said.stderr
