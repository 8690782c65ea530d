"""The proof of INT8 files: what passes, and planted faults that it finds and names."""

from __future__ import annotations

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.prove import judge_runtime, onnx_logits, prove_int8
from slimsight.export.onnx_files.layers_run import LayersRun
from slimsight.export.onnx_files.metadata import write_metadata_
from slimsight.export.runners import OnnxRunner

from .conftest import SIDE, Quantised, images, keep_in_fp32

HELD_OUT = images(64, seed=9)
HAS_OPENVINO = find_spec("openvino") is not None
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")


def test_a_u8_file_computes_in_onnx_runtime_what_it_says(mixed: Quantised) -> None:
    found = prove_int8(mixed.made["u8"].path, mixed.fp32, HELD_OUT, artifact="slim/model.int8.onnx")
    assert (found.passed, found.form, found.layers) == (True, "u8", 6)
    ran = [row.runtime for row in found.runtimes]
    assert ran == ["onnxruntime-cpu", *(["openvino"] if HAS_OPENVINO else [])]
    assert [name for name, _ in found.skipped] == ([] if HAS_OPENVINO else ["openvino"])
    for row in found.runtimes:
        assert (row.passed, row.why, row.p99 < 0.03, row.agreement >= 0.98) == (True, None, True, True)
    own, exact = onnx_logits(mixed.made["u8"].path, HELD_OUT, optimised=False), onnx_logits(mixed.fp32, HELD_OUT)
    noise = np.square(exact - own, dtype=np.float64).sum()
    assert found.fidelity.sqnr_db == pytest.approx(10 * np.log10(np.square(exact, dtype=np.float64).sum() / noise))
    assert found.fidelity.images == 64
    for row_of_report in found.to_dict()["runtimes"]:
        assert (row_of_report["integer_layers"], row_of_report["float_layers"]) == (6, [])


def test_a_layer_that_is_quantised_again_fails_however_near_the_logits_are(
    mixed: Quantised, calibration: Calibration, tmp_path: Path
) -> None:
    path = keep_in_fp32(mixed.fp32, tmp_path / "kept.onnx", calibration, "depthwise/Conv")
    found = prove_int8(path, mixed.fp32, HELD_OUT, artifact="kept")
    assert not found.passed
    assert found.runtimes[0].why is not None
    assert found.runtimes[0].why.endswith("it quantises layers that the file keeps in FP32: depthwise/Conv")


@pytest.mark.skipif(not ON_X86, reason="the kernels of other CPUs take signed activations")
def test_s8_is_not_judged_in_onnx_runtime_on_x86_and_a_runner_refuses_it(mixed: Quantised) -> None:
    path = mixed.made["s8"].path
    found = prove_int8(path, mixed.fp32, HELD_OUT, artifact="model.int8.trt.onnx")
    assert (found.passed, "onnxruntime-cpu" in {row.runtime for row in found.runtimes}) == (True, False)
    assert found.fidelity.sqnr_db > 20
    runtime, reason = found.skipped[0]
    assert (runtime, "s8, which is for TensorRT" in reason) == ("onnxruntime-cpu", True)
    with (
        pytest.raises(ExportError, match=r"model\.s8\.onnx is not run in ONNX Runtime here: .* s8, .*take the u8 file"),
        OnnxRunner(path),
    ):
        pass


def test_a_runtime_that_computes_something_else_is_found(mixed: Quantised, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime does on x86 with the s8 file of MobileNetV2."""

    monkeypatch.setattr(
        "slimsight.export.int8.prove.runtime_logits",
        lambda runtime, path, pixels, **_options: onnx_logits(path, pixels)[:, ::-1],
    )
    found = prove_int8(mixed.made["u8"].path, mixed.fp32, HELD_OUT, artifact="planted")
    assert (found.passed, found.fidelity.p99 < 0.05) == (False, True)
    assert found.runtimes[0].why is not None
    assert found.runtimes[0].why.startswith("logits differ from the file's own arithmetic by ")


def test_the_limits_are_those_that_are_named() -> None:
    own = np.zeros((100, 2))
    own[:, 0] = 1.0
    assert judge_runtime("r", own, own * 0.971).passed
    assert judge_runtime("r", own, own * 0.969).why == (
        "logits differ from the file's own arithmetic by 0.031 of the largest (0.99 quantile)"
    )
    swapped = own * 0.0
    swapped[:, 0] = np.where(np.arange(100) < 3, -1e-3, 1.0)
    assert "on 97.0% of the images" in str(judge_runtime("r", own, swapped).why)
    exact = own + np.array([0.0, 0.4])
    assert judge_runtime("r", own, exact, exact=exact).nearer_to_fp32  # all of it in FP32: slower, not wrong
    assert judge_runtime("r", own, exact, exact=exact).passed
    assert not judge_runtime("r", own, exact).passed
    away = judge_runtime("r", own, own - np.array([0.0, 0.4]), exact=exact)
    assert (away.passed, away.nearer_to_fp32, away.to_dict().get("nearer_to_fp32")) == (False, False, None)
    turned = exact[:, ::-1]  # 94 of 100 images have FP32's class, and the signal is better: it is not good enough
    most = np.where(np.arange(100)[:, None] < 94, exact, turned)
    far = own - np.array([0.0, 2.0])
    assert not judge_runtime("r", far, most, exact=exact).nearer_to_fp32
    assert judge_runtime("r", far, np.where(np.arange(100)[:, None] < 95, exact, turned), exact=exact).nearer_to_fp32
    broken = own.copy()
    broken[0, 0] = np.nan
    assert judge_runtime("r", own, broken).why == "logits of 1 images are NaN or infinite"
    assert judge_runtime("r", own, broken, exact=own + 0.1).why == "logits of 1 images are NaN or infinite"
    layers = LayersRun(("a",), ("b",), (), ("b",))
    assert judge_runtime("r", own, own, layers).passed  # FP32 in place of integers is slower, not wrong


def test_precision_is_what_the_file_states_and_a_foreign_statement_is_not_believed(
    mixed: Quantised, tmp_path: Path
) -> None:
    with OnnxRunner(mixed.made["u8"].path) as runner:
        assert runner.precision == "int8"
        assert runner.run(HELD_OUT.astype(np.float32) / 255).shape == (64, 10)
    with OnnxRunner(mixed.fp32) as runner:
        assert runner.precision == "fp32"
    path = Path(shutil.copy(mixed.fp32, tmp_path / "theirs.onnx"))
    proto = onnx.load(path)
    write_metadata_(proto, {"precision": "\x1b[31mfast"})
    onnx.save(proto, path)
    with OnnxRunner(path) as runner:
        assert runner.precision == "fp32"


def test_there_must_be_images_and_they_must_be_finite(mixed: Quantised) -> None:
    path = mixed.made["u8"].path
    with pytest.raises(ExportError, match="there are no images to prove it on"):
        prove_int8(path, mixed.fp32, HELD_OUT[:0], artifact="x")
    with pytest.raises(ExportError, match="NaN or infinity in 64 of 64 images"):
        prove_int8(path, mixed.fp32, np.full((64, 3, SIDE, SIDE), np.nan, np.float32), artifact="x")
