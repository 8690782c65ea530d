from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.export.runners import OnnxRunner, Pt2Runner, TorchRunner
from slimsight.export.runners.choose import RUNTIMES, open_runner, why_unavailable


def test_every_runtime_is_known_and_the_ones_of_the_cpu_run_here() -> None:
    found = why_unavailable()
    assert list(found) == list(RUNTIMES)
    assert found["torch"] is found["pt2"] is found["onnxruntime-cpu"] is None


def test_without_a_device_runtimes_of_the_device_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"):
        assert why_unavailable()[name]


def test_without_onnxruntime_its_runtimes_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = why_unavailable()
    assert all("pip install onnxruntime" in str(found[name]) for name in found if name.startswith("onnxruntime"))
    assert found["torch"] is None


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_a_runner_is_opened_by_its_name(case) -> None:
    images = case.images(2).astype(np.float32) / 255
    logits = {}
    for name, model, kind in (
        ("torch", case.model, TorchRunner),
        ("pt2", case.pt2, Pt2Runner),
        ("onnxruntime-cpu", case.onnx, OnnxRunner),
    ):
        runner = open_runner(model, name, 1)
        assert isinstance(runner, kind)
        with runner:
            logits[name] = runner.run(images)
    np.testing.assert_allclose(logits["torch"], logits["pt2"], atol=1e-4)
    np.testing.assert_allclose(logits["torch"], logits["onnxruntime-cpu"], atol=1e-4)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_what_does_not_fit_is_refused(case, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown runtime 'torchh'; did you mean 'torch'"):
        open_runner(case.model, "torchh")
    with pytest.raises(ConfigError, match=r"onnxruntime-cpu takes a \.onnx file, not model\.pt2"):
        open_runner(case.pt2, "onnxruntime-cpu")
    with pytest.raises(ConfigError, match=r"pt2 takes a \.pt2 file, not Linear"):
        open_runner(nn.Linear(1, 1), "pt2")
    with pytest.raises(ConfigError, match=r"torch takes a module, not model\.onnx"):
        open_runner(case.onnx, "torch")
    on_cuda = replace(RUNTIMES["onnxruntime-cuda"], available=lambda: "no CUDA device")
    monkeypatch.setitem(RUNTIMES, "onnxruntime-cuda", on_cuda)
    with pytest.raises(ExportError, match="onnxruntime-cuda cannot run here: no CUDA device"):
        open_runner(case.onnx, "onnxruntime-cuda")
