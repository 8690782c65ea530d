"""Which layers run in integers, read from the graph that ONNX Runtime optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper

from slimsight.export.int8.calibration import Calibration
from slimsight.export.onnx_files.layers_run import compare_layers
from slimsight.export.onnx_files.quantised import HeavyLayer, heavy_layers
from slimsight.export.runners import open_session
from slimsight.export.runners.onnxruntime_session import layers_in_onnxruntime

from .conftest import Quantised, keep_in_fp32

LAYERS = [
    HeavyLayer("a/Conv", "Conv", "a.weight_quantized", True),
    HeavyLayer("a/Conv.1", "Conv", "a1.weight", False),
    HeavyLayer("fc/Gemm", "Gemm", "fc.weight_quantized", True),
]


def optimised(*nodes: tuple[str, str, list[str]]) -> Any:
    made = [helper.make_node(kind, inputs, [f"out{i}"], name=name) for i, (kind, name, inputs) in enumerate(nodes)]
    return helper.make_graph(made, "optimised", [], [])


def test_nodes_are_matched_by_name_or_by_weight() -> None:
    found = compare_layers(
        LAYERS,
        optimised(
            ("QLinearConv", "a/Conv_token_1", ["x"]),
            ("FusedConv", "fused a/Conv.1_nchwc", ["x"]),
            ("QGemm", "renamed", ["x", "s", "z", "fc.weight_quantized"]),
        ),
    )
    assert found.integer == ("a/Conv", "fc/Gemm")
    assert (found.floating, found.requantised, found.fell_back) == (("a/Conv.1",), (), ())
    assert found.share == pytest.approx(2 / 3)


def test_a_layer_in_another_precision_than_meant_is_named() -> None:
    found = compare_layers(
        LAYERS, optimised(("Conv", "a/Conv", ["x"]), ("QLinearConv", "a/Conv.1_token_12", ["x"]), ("QGemm", "?", ["x"]))
    )
    assert found.integer == found.requantised == ("a/Conv.1",)
    assert found.floating == found.fell_back == ("a/Conv", "fc/Gemm")  # what is not seen in integers does not count


def test_every_layer_of_a_u8_file_runs_in_integers(mixed: Quantised) -> None:
    made = mixed.made["u8"]
    found = layers_in_onnxruntime(made.path)
    assert found.integer == made.layers
    assert (found.floating, found.requantised, found.share) == ((), (), 1.0)


def test_no_layer_of_an_fp32_file_does(mixed: Quantised) -> None:
    found = layers_in_onnxruntime(mixed.fp32)
    assert (found.integer, found.fell_back, len(found.floating)) == ((), (), 6)


def test_a_layer_kept_in_fp32_that_onnx_runtime_quantises_again_is_found(
    mixed: Quantised, calibration: Calibration, tmp_path: Path
) -> None:
    path = keep_in_fp32(mixed.fp32, tmp_path / "kept.onnx", calibration, "depthwise/Conv")
    proto = onnx.load(path)
    meant = {layer.name: layer.quantised for layer in heavy_layers(proto.graph)}
    assert meant == {**dict.fromkeys(mixed.made["u8"].layers, True), "depthwise/Conv": False}
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "depthwise.weight")
    assert numpy_helper.to_array(weight).dtype == "float32"
    assert layers_in_onnxruntime(path).requantised == ("depthwise/Conv",)


def test_the_optimised_graph_is_written_only_where_asked(mixed: Quantised, tmp_path: Path) -> None:
    open_session(mixed.fp32, 1)
    assert not any(tmp_path.iterdir())
    open_session(mixed.fp32, 1, optimised_to=tmp_path / "optimised.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["optimised.onnx"]
