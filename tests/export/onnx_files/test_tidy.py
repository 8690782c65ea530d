"""What is done to a graph that torch's exporter made: here of the form that torch 2.11 gives a flatten."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slimsight.export.onnx_files.tidy import with_constant_shapes_
from slimsight.export.runners import import_onnxruntime

BATCH = helper.make_node("Shape", ["x"], ["batch"], start=0, end=1)
ALL = helper.make_node("Shape", ["x"], ["all"])
JOIN = helper.make_node("Concat", ["batch", "channels"], ["shape"], axis=0)
FLATTEN = helper.make_node("Reshape", ["x", "shape"], ["y"])


def graph(*nodes: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in outputs if name == "y"]
    values += [helper.make_tensor_value_info(name, TensorProto.INT64, ["k"]) for name in outputs if name != "y"]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 1, 1])
    channels = numpy_helper.from_array(np.array([4], np.int64), "channels")
    return helper.make_graph(nodes, "g", [given], values, [channels])


def run(made: Any, count: int) -> Any:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4, 1, 1)})[0]


def test_the_batch_of_a_flatten_is_not_looked_up() -> None:
    made = graph(BATCH, JOIN, FLATTEN)
    expected = [run(made, count) for count in (1, 3)]
    with_constant_shapes_(made)
    assert [node.op_type for node in made.node] == ["Reshape"]
    assert {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in made.initializer} == {"shape": [-1, 4]}
    for count, wanted in zip((1, 3), expected, strict=True):
        np.testing.assert_array_equal(run(made, count), wanted)


@pytest.mark.parametrize(
    "nodes",
    [
        (ALL, helper.make_node("Concat", ["all", "channels"], ["shape"], axis=0), FLATTEN),
        (BATCH, helper.make_node("Concat", ["batch", "batch", "channels"], ["shape"], axis=0), FLATTEN),
        (BATCH, JOIN, FLATTEN, helper.make_node("Identity", ["shape"], ["also"])),
    ],
    ids=["more than one size", "two sizes", "a shape that something else reads"],
)
def test_other_shapes_stay(nodes: tuple[Any, ...]) -> None:
    made = graph(*nodes)
    before = made.SerializeToString(deterministic=True)
    with_constant_shapes_(made)
    assert made.SerializeToString(deterministic=True) == before


def test_a_size_that_something_else_reads_stays() -> None:
    made = graph(BATCH, JOIN, FLATTEN, outputs=("y", "batch"))
    with_constant_shapes_(made)
    assert [node.op_type for node in made.node] == ["Shape", "Reshape"]
    np.testing.assert_array_equal(run(made, 2), np.arange(8).reshape(2, 4))
