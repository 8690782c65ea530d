"""A real s8 file that ONNX Runtime on x86 computes wrongly: the proof finds it, and runners refuse it by name."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from slimsight.compress.errors import ExportError
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.prove import judge_runtime, onnx_logits
from slimsight.export.int8.quantise import quantise
from slimsight.export.runners import OnnxRunner
from slimsight.export.runners.onnxruntime_session import layers_in_onnxruntime
from slimsight.export.to_onnx import export_onnx

SIDE = 32


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the fault is of x86 kernels")
def test_the_proof_finds_an_s8_file_that_onnx_runtime_computes_wrongly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fp32, path = tmp_path / "model.onnx", tmp_path / "model.int8.trt.onnx"
    blocks = [
        [t, c, 1, s]
        for t, c, s in ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
    ]
    network = mobilenet_v2(width_mult=0.35, inverted_residual_setting=blocks).eval()
    export_onnx(network, torch.rand(2, 3, SIDE, SIDE), fp32)
    pixels = torch.rand(32, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).numpy()
    quantise(fp32, path, Calibration(pixels, "random images"), form="s8")
    own, run = (onnx_logits(path, pixels[:8], optimised=optimised) for optimised in (False, True))
    layers = layers_in_onnxruntime(path)
    found = judge_runtime("onnxruntime-cpu", own, run, layers, exact=onnx_logits(fp32, pixels[:8]))
    assert (found.passed, found.p99 > 0.3) == (False, True), found
    assert found.why is not None
    assert "of the largest (0.99 quantile)" in found.why
    with pytest.raises(ExportError, match="is in the form s8, which is for TensorRT"), OnnxRunner(path, 1):
        pass
