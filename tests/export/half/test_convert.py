"""FP16 graphs against the FP32 ones they come from, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from slimsight.compress.errors import ExportError
from slimsight.export.half.convert import to_half
from slimsight.export.half.overflow import overflowing_values, run_graph
from slimsight.export.onnx_files.value_types import FLOAT, HALF, value_types

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((6, 3, 8, 8), dtype=np.float32)


def weight(name: str, *shape: int, scale: float = 0.1) -> Any:
    return numpy_helper.from_array(RANDOM.normal(0, scale, shape).astype(np.float32), name)


def scalar(name: str, value: float) -> Any:
    return numpy_helper.from_array(np.array(value, np.float32), name)


def model(nodes: Sequence[Any], constants: Sequence[Any], *, batch: int | str = "batch") -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None] * 4)],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def louder(batch: int | str = "batch") -> onnx.ModelProto:
    """Convolution, then values near 1e6 through a ReLU and a pooling, then back to units."""
    node = helper.make_node
    return model(
        [
            node("Conv", ["images", "w"], ["a"], name="conv"),
            node("Mul", ["a", "up"], ["b"], name="up"),
            node("Relu", ["b"], ["c"], name="relu"),
            node("MaxPool", ["c"], ["d"], name="pool", kernel_shape=[2, 2]),
            node("Mul", ["d", "down"], ["e"], name="down"),
            node("Conv", ["e", "v"], ["logits"], name="last"),
        ],
        [weight("w", 4, 3, 3, 3), weight("v", 5, 4, 1, 1), scalar("up", 1e6), scalar("down", 1e-6)],
        batch=batch,
    )


def casts_of(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(node.input[0], node.attribute[0].i) for node in proto.graph.node if node.op_type == "Cast"]


def test_values_beyond_fp16_are_found_and_stay_in_fp32() -> None:
    proto = louder()
    found = overflowing_values(proto, IMAGES)
    assert set(found) == {"b", "c", "d"}
    assert 65504 / 2 < min(found.values()) <= max(found.values()) < 1e7
    exact = run_graph(proto, IMAGES)[0]
    assert not np.isfinite(run_graph(to_half(proto).proto, IMAGES)[0]).all()  # what would happen without
    half = to_half(proto, found)
    onnx.checker.check_model(half.proto, full_check=True)
    assert half.kept_fp32 == ("b", "c", "d", "up")  # 1e6 itself is beyond FP16 too
    assert half.fp16_nodes == ("conv", "last")
    # One cast on the way in, one on the way out; none between neighbours that both stay in FP32.
    assert casts_of(half.proto) == [("images", HALF), ("a", FLOAT), ("e", HALF), ("logits/half", FLOAT)]
    assert np.abs(run_graph(half.proto, IMAGES)[0] - exact).max() <= 2e-3 * np.abs(exact).max()


def test_it_computes_what_the_converter_of_onnx_runtime_computes(case: Any) -> None:
    proto = onnx.load(case.onnx)
    images = case.images(4)
    ours = run_graph(to_half(proto).proto, images)[0]
    theirs = run_graph(convert_float_to_float16(proto, keep_io_types=True), images)[0]
    exact = run_graph(onnx.load(case.onnx), images)[0]
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 2e-3 * np.abs(exact).max()
    assert np.abs(ours - exact).max() <= 5e-3 * np.abs(exact).max()
    assert (ours.argmax(1) == exact.argmax(1)).all()


def test_weights_are_stored_once_and_in_half(case: Any) -> None:
    proto = onnx.load(case.onnx)
    half = to_half(proto).proto
    stored = [{len(t.dims): t.data_type for t in graph.initializer} for graph in (proto.graph, half.graph)]
    assert [kinds[4] for kinds in stored] == [FLOAT, HALF]
    sizes = [sum(len(t.raw_data) for t in graph.initializer if len(t.dims) == 4) for graph in (proto.graph, half.graph)]
    assert sizes[1] == sizes[0] / 2


def branching(loud: float = 1.0) -> onnx.ModelProto:
    """An `If` inside of an `If` by the brightness; one leaf multiplies by ``loud`` and divides by it again."""
    node = helper.make_node

    def graph(name: str, nodes: Sequence[Any], output: str, constants: Sequence[Any] = ()) -> Any:
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [value], list(constants))

    leaf = graph(
        "loud",
        [
            node("Conv", ["stem", "w1"], ["l1"], name="conv1"),
            node("Mul", ["l1", "loud"], ["l2"]),
            node("Div", ["l2", "loud"], ["l3"]),
        ],
        "l3",
        [weight("w1", 4, 4, 1, 1, scale=1.0), scalar("loud", loud)],
    )
    other = graph("quiet", [node("Conv", ["stem", "w2"], ["q"], name="conv2")], "q", [weight("w2", 4, 4, 1, 1)])
    nested = node("If", ["bright"], ["n"], name="inner", then_branch=leaf, else_branch=other)
    plain = graph("plain", [node("Conv", ["stem", "w3"], ["p"], name="conv3")], "p", [weight("w3", 4, 4, 1, 1)])
    return model(
        [
            node("Conv", ["images", "w"], ["stem"], name="stem"),
            node("ReduceMean", ["images"], ["mean"], keepdims=0),
            node("Less", ["limit", "mean"], ["bright"]),
            node("Less", ["lower", "mean"], ["middle"]),
            node("If", ["middle"], ["m"], name="outer", then_branch=graph("in", [nested], "n"), else_branch=plain),
            node("GlobalAveragePool", ["m"], ["logits"]),
        ],
        [weight("w", 4, 3, 3, 3, scale=1.0), scalar("limit", 0.6), scalar("lower", 0.4)],
        batch=1,
    )


@pytest.mark.parametrize("loud", [1.0, 6e4])
def test_branches_are_cast_too_and_stay_in_fp32_where_something_overflows_inside(loud: float) -> None:
    proto = branching(loud)
    images = np.stack([np.full((3, 8, 8), value, np.float32) for value in (0.2, 0.5, 0.9)])
    images += RANDOM.normal(0, 0.02, images.shape).astype(np.float32)
    found = overflowing_values(proto, images)
    assert (not found) == (loud == 1.0)
    half = to_half(proto, found)
    onnx.checker.check_model(half.proto, full_check=True)
    assert set(half.fp16_nodes) | set(half.fp32_nodes) == {"stem", "conv1", "conv2", "conv3"}
    assert (set(half.fp32_nodes) == set()) == (loud == 1.0)
    exact, ours = run_graph(proto, images)[0], run_graph(half.proto, images)[0]
    assert np.abs(ours - exact).max() <= 2e-3 * np.abs(exact).max()


def test_types_come_from_the_operators_own_schemas() -> None:
    types = value_types(branching())
    assert {types[name] for name in ("images", "stem", "mean", "m", "n", "l3", "logits")} == {FLOAT}
    assert {types[name] for name in ("bright", "middle")} == {TensorProto.BOOL}
    node = helper.make_node
    others = value_types(
        model(
            [
                node("Shape", ["images"], ["shape"]),
                node("ArgMax", ["images"], ["best"]),
                node("Cast", ["best"], ["logits"], to=TensorProto.FLOAT),
                node("Constant", [], ["k"], value_ints=[1, 2]),
            ],
            [],
        )
    )
    assert others["shape"] == others["best"] == others["k"] == TensorProto.INT64
    assert others["logits"] == FLOAT


def test_what_has_no_fp16_form_is_refused_by_name() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    loop = helper.make_node("Loop", ["", ""], [], name="again", body=body)
    with pytest.raises(ExportError, match="node 'again' is a Loop, which has no FP16 form here: build in fp32"):
        to_half(model([helper.make_node("Relu", ["images"], ["logits"]), loop], []))
    with pytest.raises(ExportError, match="node 'odd' is a Strange, which ONNX does not define"):
        to_half(model([helper.make_node("Strange", ["images"], ["logits"], name="odd")], []))


def test_the_graph_it_is_given_stays_as_it_is(tmp_path: Path) -> None:
    proto = louder()
    before = proto.SerializeToString(deterministic=True)
    overflowing_values(proto, IMAGES)
    to_half(proto)
    assert proto.SerializeToString(deterministic=True) == before
