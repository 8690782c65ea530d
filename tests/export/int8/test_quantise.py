"""INT8 files: what stands in each form, what their metadata say, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimsight.compress.errors import ExportError
from slimsight.export.half.precision import export_fp16
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.quantise import quantise
from slimsight.export.onnx_files.metadata import read_metadata

from .conftest import SIDE, Quantised, images

HEAVY = ["stem/Conv", "block.conv1/Conv", "block.conv2/Conv", "depthwise/Conv", "grouped/Conv", "fc/Gemm"]


def stored(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def zero_points(path: Path, operator: str) -> list[np.ndarray[Any, Any]]:
    tensors = stored(path)
    return [tensors[node.input[2]] for node in onnx.load(path).graph.node if node.op_type == operator]


def test_u8_has_unsigned_activations_and_a_scale_for_each_channel_of_weights(mixed: Quantised) -> None:
    made = mixed.made["u8"]
    assert [*made.layers] == HEAVY
    assert made.float_layers == ()
    assert made.size_bytes == made.path.stat().st_size
    assert {point.dtype for point in zero_points(made.path, "QuantizeLinear")} == {np.dtype(np.uint8)}
    tensors = stored(made.path)
    weight, scale = tensors["depthwise.weight_quantized"], tensors["depthwise.weight_scale"]
    assert (weight.dtype, weight.shape, scale.shape) == (np.int8, (16, 1, 3, 3), (16,))
    exact = numpy_helper.to_array(
        next(t for t in onnx.load(mixed.fp32).graph.initializer if t.name == "depthwise.weight")
    )
    assert np.abs(weight * scale.reshape(-1, 1, 1, 1) - exact).max() <= scale.max() / 2 + 1e-7


def test_s8_is_symmetric_and_its_biases_stay_in_float(mixed: Quantised) -> None:
    path = mixed.made["s8"].path
    points = [*zero_points(path, "QuantizeLinear"), *zero_points(path, "DequantizeLinear")]
    assert {point.dtype for point in points} == {np.dtype(np.int8)}
    assert not any(point.any() for point in points)
    assert not any(tensor.dtype == np.int32 for tensor in stored(path).values())
    (fc,) = [node for node in onnx.load(path).graph.node if node.op_type == "Gemm"]
    assert stored(path)[fc.input[2]].dtype == np.float32
    assert [*mixed.made["s8"].layers] == HEAVY


def test_logits_of_a_linear_layer_are_not_rounded_to_8_bits(mixed: Quantised) -> None:
    for made in mixed.made.values():
        graph = onnx.load(made.path).graph
        (last,) = [node for node in graph.node if "logits" in node.output]
        assert last.op_type == "Gemm"
        read = {name for node in graph.node for name in node.input}
        assert all(tensor.name in read for tensor in graph.initializer)
        onnx.checker.check_model(onnx.load(made.path), full_check=True)
    pixels = images(64, seed=5)
    logits = onnx_logits(mixed.made["u8"].path, pixels)
    exact = onnx_logits(mixed.fp32, pixels)
    assert len(np.unique(logits)) > 256
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_metadata_say_what_the_file_is_for_and_keep_the_rest(mixed: Quantised, calibration: Calibration) -> None:
    before, after = read_metadata(mixed.fp32), read_metadata(mixed.made["u8"].path)
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert {key: value for key, value in after.all.items() if not key.startswith("int8_") and key != "precision"} == {
        key: value for key, value in before.all.items() if key != "precision"
    }
    assert after.all["int8_form"] == "u8"
    assert after.all["int8_for"].startswith("ONNX Runtime on a processor")
    assert (after.all["int8_method"], after.all["int8_calibration_images"]) == ("minmax", "32")
    assert after.all["int8_calibration_source"] == "training images"
    assert after.all["int8_calibration_sha256"] == calibration.digest
    assert read_metadata(mixed.made["s8"].path).all["int8_for"].startswith("TensorRT and TensorRT for RTX")


def test_the_same_images_give_the_same_bytes(mixed: Quantised, calibration: Calibration, tmp_path: Path) -> None:
    again = quantise(mixed.fp32, tmp_path / "again.onnx", calibration)
    assert again.path.read_bytes() == mixed.made["u8"].path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_methods_choose_other_ranges_and_all_stay_near(
    mixed: Quantised, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels, scales = images(64, seed=3) // 4, {}
    exact = onnx_logits(mixed.fp32, pixels)
    outlier = images(32) // 4  # one bright value among dark ones
    outlier[0, 0, 0, 0] = 255
    for method in ("minmax", "entropy", "percentile"):
        made = quantise(mixed.fp32, tmp_path / f"{method}.onnx", Calibration(outlier, "blobs"), method=method)  # type: ignore[arg-type]
        scales[method] = float(stored(made.path)["div_scale"])
        assert np.quantile(np.abs(onnx_logits(made.path, pixels) - exact), 0.99) < 0.1 * np.abs(exact).max()
    assert capfd.readouterr().out == ""  # the library prints its progress
    extremes = (outlier.max() / 255 - 0.45) / 0.25 - (outlier.min() / 255 - 0.45) / 0.25
    assert scales["minmax"] == pytest.approx(extremes / 255, rel=1e-5)
    assert scales["percentile"] < scales["minmax"]
    assert {method: read_metadata(tmp_path / f"{method}.onnx").all["int8_method"] for method in scales} == {
        method: method for method in scales
    }


def write(
    path: Path,
    nodes: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    opset: int = 18,
    sides: tuple[int | str, int | str] = (SIDE, SIDE),
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *sides])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        list(constants),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def convolution(path: Path, **options: Any) -> Path:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    return write(path, [helper.make_node("Conv", ["images", "w"], ["logits"], name="conv")], [weight], **options)


def branching(path: Path) -> Path:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    condition = numpy_helper.from_array(np.array(True), "condition")
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], name="conv"),
        helper.make_node("If", ["condition"], ["logits"], name="choice", then_branch=branch, else_branch=branch),
    ]
    return write(path, nodes, [weight, condition])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda folder, _: folder / "none.onnx", r"there is no .*none\.onnx"),
        (lambda folder, _: write(folder / "a.onnx", [helper.make_node("Relu", ["images"], ["logits"])]),
         r"a\.onnx has no convolution \(1 nodes, 0 matrix products\)"),
        (lambda folder, _: convolution(folder / "a.onnx", opset=12), r"has opset 12: INT8 .* needs 13 or newer"),
        (lambda folder, _: convolution(folder / "a.onnx", sides=("height", "width")),
         r"takes images of any size: INT8 ranges are of one size"),
        (lambda _, mixed: mixed.made["u8"].path, r"is quantised already \(node '.*' and \d+ more\): give the FP32"),
        (lambda folder, _: branching(folder / "a.onnx"),
         r"has branches \(node 'choice', If\).*quantise the static slim"),
        (lambda folder, mixed: half(folder / "a.onnx", mixed), r"holds FP16 weights .*quantise the FP32 file"),
        (lambda folder, _: convolution(folder / "a.onnx", sides=(24, 20)),
         r"\(training images\) are 16 x 16 pixels, a\.onnx takes 24 x 20: give images of that size"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantised_is_one_sentence_and_nothing_is_written(
    given: Any, message: str, mixed: Quantised, calibration: Calibration, tmp_path: Path
) -> None:
    source = given(tmp_path, mixed)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"earlier")
    with pytest.raises(ExportError, match=message) as raised:
        quantise(source, out, calibration)
    assert "\n" not in str(raised.value)
    assert out.read_bytes() == b"earlier"


def half(path: Path, mixed: Quantised) -> Path:
    export_fp16(mixed.fp32, path, images(4))
    return path


def test_a_file_of_another_exporter_is_quantised_too(calibration: Calibration, tmp_path: Path) -> None:
    """BatchNorm not folded, weights in Constant nodes, no names, no metadata, a fixed batch size, opset 13."""
    generator = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> Any:
        array = np.abs(generator.normal(1, 0.3, shape)).astype(np.float32)
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))

    nodes = [
        constant("w", 6, 3, 3, 3),
        *(constant(name, 6) for name in ("gain", "shift", "mean", "variance")),
        constant("v", 10, 6, 1, 1),
        helper.make_node("Conv", ["images", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "gain", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [3, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [3, 10])],
    )
    source = tmp_path / "theirs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), source)
    made = quantise(source, tmp_path / "int8.onnx", calibration)
    assert (len(made.layers), made.float_layers) == (2, ())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(made.path).graph.node}
    pixels = images(7)
    exact, found = onnx_logits(source, pixels), onnx_logits(made.path, pixels)
    assert found.shape == (7, 10)
    assert np.abs(found - exact).max() < 0.03 * np.abs(exact).max()
