"""Biases are corrected for what rounded weights shift, in both forms, and only those of the layer itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimsight.export.int8 import quantise as module
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.quantise import Quantiser, Scheme
from slimsight.export.onnx_files.quantised import Form

from .conftest import SIDE


def shared_bias(path: Path) -> Path:
    """Two padded, strided convolutions with one bias for both; weights of unlike size. Logits are channel means."""
    generator = np.random.default_rng(0)
    first, second = (generator.normal(0, 0.2, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (8, 8, 3, 3)))
    for weight in (first, second):
        weight[0] *= 30
        weight[1] += 0.002
    second[:, 0] = 0  # so that the large channel does not hide what the others shift
    tensors = {"a": first, "b": second, "bias": np.linspace(-0.2, 0.3, 8, dtype=np.float32)}
    options = {"pads": [1, 0, 1, 2], "strides": [2, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "a", "bias"], ["c"], name="first", **options),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("Conv", ["d", "b", "bias"], ["e"], name="second", **options),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["logits"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("form", ["u8", "s8"])
def test_the_mean_of_logits_is_that_of_fp32(
    form: Form, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_bias(tmp_path / "model.onnx")
    exact = onnx_logits(source, calibration.pixels)

    def shift() -> Any:
        with Quantiser(source, calibration, Scheme(form, weights="per_tensor")) as quantiser:
            onnx.save(quantiser.to_graph(only="second"), path := tmp_path / "one.onnx")
            made = quantiser.write(tmp_path / "int8.onnx")
        onnx.checker.check_model(onnx.load(made.path), full_check=True)
        found = onnx_logits(path, calibration.pixels, optimised=False)
        return np.abs((found - exact).mean(0))[1:].max(), onnx_logits(made.path, calibration.pixels, optimised=False)

    corrected, logits = shift()
    monkeypatch.setattr(module, "correct_biases_", lambda *_arguments: None)
    uncorrected, plain = shift()
    assert uncorrected > 0.01
    assert corrected < 0.1 * uncorrected
    assert np.square(logits - exact)[:, 1:].mean() < np.square(plain - exact)[:, 1:].mean()
