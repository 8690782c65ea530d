"""The runner of OpenVINO: FP32 that is FP32, devices by its own names, refusals in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from slimsight.compress.errors import ConfigError, ExportError, RuntimeMissing
from slimsight.export.onnx_files.runtime import import_openvino
from slimsight.export.runners import OnnxRunner, OpenVinoRunner
from slimsight.export.runners.choose import open_runner
from slimsight.export.runners.in_openvino import compile_file, layers_in_openvino, reason_of, values_in_openvino

pytestmark = pytest.mark.parametrize("case", ["mixed"], indirect=True)
NEEDS_OPENVINO = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('openvino')")


@NEEDS_OPENVINO
def test_any_batch_gives_the_logits_of_onnx_runtime_in_fp32(case) -> None:
    images = case.images(5).astype(np.float32) / 255
    with OnnxRunner(case.onnx) as reference, open_runner(case.onnx, "openvino") as runner:
        for batch in (images, images[:1], images[1:4]):
            logits = runner.run(batch)
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, reference.run(batch), atol=1e-5)
        first = runner.run(images[:1])
        runner.run(images[1:2])
        np.testing.assert_array_equal(first, runner.run(images[:1]))  # logits are a copy, not the runtime's memory
        assert (runner.runtime, runner.precision) == ("openvino-cpu", "fp32")
        with pytest.raises(ExportError, match=r"takes images of \(3, 16, 16\), not \(3, 9, 7\)"):
            runner.run(np.zeros((1, 3, 9, 7), np.float32))


@NEEDS_OPENVINO
def test_threads_and_exact_fp32_are_what_the_plug_in_reports(case) -> None:
    compiled = compile_file(case.onnx, threads=2)
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


@NEEDS_OPENVINO
def test_a_device_that_computes_in_less_says_so(case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors with bfloat16 units the plug-in can be told to use them; elsewhere it reports fp32 all the same."""
    monkeypatch.setattr(
        "slimsight.export.runners.in_openvino._device_settings", lambda *_: {"INFERENCE_PRECISION_HINT": "bf16"}
    )
    reported = compile_file(case.onnx).get_property("INFERENCE_PRECISION_HINT").get_type_name()
    with OpenVinoRunner(case.onnx) as runner:
        assert runner.precision == {"f32": "fp32", "bf16": "bf16"}[reported]


@NEEDS_OPENVINO
def test_names_of_devices_are_passed_on(case) -> None:
    with open_runner(case.onnx, "openvino:auto:cpu") as runner:
        assert (runner.runtime, runner.precision) == ("openvino-auto:cpu", "fp32")
        assert runner.run(np.zeros((2, 3, 16, 16), np.float32)).shape == (2, 10)
    for device in ("gpu.7", "NONSENSE", "AUTO:NPU.3"):
        runner = open_runner(case.onnx, f"openvino:{device}")
        with (
            pytest.raises(RuntimeMissing, match=r"OpenVINO sees no \S+ here \(it sees CPU.*"),
            runner,
        ):
            pass
    with pytest.raises(ConfigError, match="'pt2:CPU' names a device, and pt2 takes none: write pt2"):
        open_runner(case.pt2, "pt2:CPU")
    with pytest.raises(ConfigError, match="'openvino:' names no device: write openvino, or openvino:CPU"):
        open_runner(case.onnx, "openvino:")


@NEEDS_OPENVINO
def test_files_that_it_cannot_run_are_refused_in_one_sentence(case, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(case.onnx.read_bytes()[:-3000])
    float64 = tmp_path / "float64.onnx"
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["n", 3, 4, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), float64)
    unknown = tmp_path / "unknown.onnx"
    node = helper.make_node("Foo", ["x"], ["y"], domain="theirs")
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, 4, 4]) for name in "xy"]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("theirs", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=opsets), unknown)
    for path, words in (
        (tmp_path / "none.onnx", "there is no .*none.onnx: export the model to onnx first"),
        (cut, "cut.onnx is not an ONNX file, or only a part of one: export the model again"),
        (float64, r"float64.onnx takes x: .*: one float input \(batch, 3, H, W\) is needed"),
        (unknown, r"OpenVINO cannot open .*unknown.onnx for CPU \(.*theirs.*Foo.*\)"),
    ):
        with pytest.raises(ExportError, match=words) as raised, OpenVinoRunner(path):
            pass
        assert "\n" not in str(raised.value)


@NEEDS_OPENVINO
def test_layers_and_their_values_are_read(case) -> None:
    found = layers_in_openvino(case.onnx)
    assert (found.integer, len(found.floating), found.fell_back) == ((), 6, ())
    image = case.images(1).astype(np.float32) / 255
    values = values_in_openvino(case.onnx.read_bytes(), ["logits", "nothing"], image)
    with torch.inference_mode():
        np.testing.assert_allclose(values["logits"], case.model(torch.from_numpy(image)), atol=1e-5)
    assert list(values) == ["logits"]


@NEEDS_OPENVINO
def test_importing_it_reports_nothing_to_its_maker(case, tmp_path: Path) -> None:
    """With its telemetry it would write an identity to the home folder."""
    code = (
        "import sys; from slimsight.export.onnx_files.runtime import import_openvino; ov = import_openvino(); "
        "assert ov.Core().available_devices; print([m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
    assert not any(tmp_path.iterdir())


def test_where_it_is_missing_the_message_says_what_to_install(case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match=r"OpenVINO is not installed: pip install 'slimsight\[openvino\]'"):
        import_openvino()
    with pytest.raises(ExportError, match=r"openvino cannot run here: .*pip install 'slimsight\[openvino\]'"):
        open_runner(case.onnx, "openvino")


def test_its_messages_are_shortened_to_what_they_say(case) -> None:
    text = (
        "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'm_model->Parse()' failed at src/x.cpp:5:\n"
        "FrontEnd API failed with GeneralFailure:\nModel can't be parsed\n\n"
    )
    assert reason_of(RuntimeError(text)) == "Model can't be parsed"
    assert reason_of(RuntimeError("")) == "RuntimeError"
