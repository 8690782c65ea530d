"""The ExecuTorch runner and its export; all that needs ExecuTorch is skipped where it is not installed."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError, RuntimeMissing, Unsupported
from slimsight.export.parity.prove import Artifact, prove_parity
from slimsight.export.pte import runtime
from slimsight.export.pte.lower import LoweredOperator, export_pte, says_slimsight
from slimsight.export.runners.choose import find_runtime, open_runner, why_unavailable
from slimsight.export.runners.in_executorch import ExecuTorchRunner

ROOT = Path(__file__).parents[3]
needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="ExecuTorch is not installed")


class Network(nn.Module):
    """Its last layer's sorting is nothing that XNNPACK runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, images):
        values = torch.relu(self.norm(self.conv(images))).amax((2, 3))
        return torch.cumsum(self.head(values), 1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return Network().eval()


def test_without_executorch_a_sentence_says_what_to_install(monkeypatch, model, tmp_path):
    monkeypatch.setattr(runtime, "find_spec", lambda _name: None)
    sentence = r"ExecuTorch is not installed: pip install 'slimsight\[executorch\]'"
    assert why_unavailable()["executorch"] is not None
    with pytest.raises(RuntimeMissing, match=sentence):
        export_pte(model, torch.rand(1, 3, 8, 8), tmp_path / "model.pte")
    with pytest.raises(ExportError, match=sentence):
        open_runner(tmp_path / "model.pte", "executorch")
    assert not (tmp_path / "model.pte").exists()


def test_an_executorch_of_another_torch_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(RuntimeMissing, match=r"cannot be imported .* it fits one version of torch"):
        runtime.import_executorch("executorch.exir")


def test_it_opens_pte_files_and_takes_no_device():
    found, device = find_runtime("executorch")
    assert (found.formats, device) == ((".pte",), None)


def test_the_runtimes_are_listed_without_importing_it():
    """It takes seconds, prints, and changes torch and the environment: only ``import_executorch`` may do it."""
    files = [path for name in ("compress", "export", "deploy") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 300
    statement = re.compile(r"^\s*(import|from) executorch\b", re.MULTILINE)
    assert [path for path in files if statement.search(path.read_text(encoding="utf-8"))] == []


@needs_executorch
def test_what_the_delegate_took_is_read_back_and_the_file_computes_the_same(model, tmp_path):
    path = tmp_path / "model.pte"
    images = np.random.default_rng(0).random((9, 3, 8, 8), np.float32)
    delegation = export_pte(model, torch.rand(2, 3, 8, 8), path, {"slimsight_version": "1"}, most=4)
    assert LoweredOperator("convolution.default", "conv") in delegation.delegated
    assert [item.name for item in delegation.remaining if item.name.startswith("cumsum")] == ["cumsum.default"]
    assert "aten::cumsum" in delegation.kernels
    assert (delegation.integer_layers, delegation.float_layers) == ((), ("conv", "head"))
    assert delegation.to_dict()["calls"] == delegation.calls >= 1
    assert says_slimsight(path)
    evidence = prove_parity([Artifact(path, "model.pte", model, "executorch", batches=(1, 3, 4))], images)
    assert [(row.runtime, row.batch, row.passed) for row in evidence.rows] == [
        ("executorch-cpu", batch, True) for batch in (1, 3, 4)
    ]
    assert max(row.max_abs for row in evidence.rows) < 1e-5
    with ExecuTorchRunner(path, threads=2) as runner:
        with pytest.raises(ExportError, match="takes 1 to 4 images per call, not 9: export it with --batch"):
            runner.run(images)
        with pytest.raises(ExportError, match=r"takes images of \(3, 8, 8\), not \(3, 9, 8\): resize them"):
            runner.run(np.zeros((1, 3, 9, 8), np.float32))
        with pytest.raises(ExportError, match=r"cannot have 1 threads while another \.pte file is open"):
            ExecuTorchRunner(path, threads=1).__enter__()
        first = runner.run(images[:1])
        second = runner.run(images[1:2])
        assert not np.array_equal(first, second), "results do not share memory"
    cut = tmp_path / "cut.pte"
    cut.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ExportError, match=r"is not a \.pte that ExecuTorch opens"), ExecuTorchRunner(cut):
        pass


@needs_executorch
@pytest.mark.parametrize("most", [1, 3])
def test_int8_is_near_fp32_and_its_layers_are_read_back(model, tmp_path, most):
    images = np.random.default_rng(1).random((64, 3, 8, 8), np.float32)
    path = tmp_path / "model.int8.pte"
    delegation = export_pte(model, torch.rand(2, 3, 8, 8), path, most=most, calibration=images[:32])
    assert (delegation.integer_layers, delegation.float_layers) == (("conv", "head"), ())
    given = [Artifact(path, path.name, model, "executorch", "int8", (most,))]
    (row,) = prove_parity(given, images[32:]).rows
    assert (row.precision, row.passed) == ("int8", True)
    assert 1e-6 < row.max_abs < 0.2, "it is quantised, and near"


@needs_executorch
def test_more_images_than_it_plans_for_are_refused_before_a_file_is_written(tmp_path):
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(Unsupported, match="for 15 images per call at most, not 64: give a smaller --batch"):
        export_pte(small, torch.rand(2, 3, 8, 8), tmp_path / "model.pte", most=64)
    assert not (tmp_path / "model.pte").exists()
