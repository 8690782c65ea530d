"""ONNX files of a few nodes, as tests of costs write them: an image ``x`` of 3 x 4 x 4 in, ``out`` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT, ANY = "com.microsoft", TensorProto.FLOAT
PIXELS = 4 * 4
Tensors = dict[str, Any]


def weights(*shape: int, kind: Any = np.float32) -> Any:
    return np.ones(shape, kind)


def node(kind: str, inputs: str, out: str = "out", domain: str = "", **more: Any) -> Any:
    """Inputs in words; '-' for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, out.split(), domain=domain, name=f"n_{kind}", **more)


def inside(nodes: list[Any], inputs: list[str], outputs: list[str], tensors: Tensors | None = None) -> Any:
    def values(names: list[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, ANY, None) for name in names]

    stored = [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()]
    return helper.make_graph(nodes, "inner", values(inputs), values(outputs), stored)


def write(path: Path, nodes: list[Any], tensors: Tensors, functions: list[Any] | None = None) -> Path:
    stored = [numpy_helper.from_array(value, name) for name, value in tensors.items() if isinstance(value, np.ndarray)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", ANY, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("out", ANY, None)],
        stored,
    )
    graph.sparse_initializer.extend(value for value in tensors.values() if isinstance(value, onnx.SparseTensorProto))
    domains = [("", 19), (MICROSOFT, 1), ("mine", 1)]
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])
    path.write_bytes(proto.SerializeToString())
    return path


def sparse(name: str, rows: int, columns: int) -> Any:
    values = numpy_helper.from_array(np.ones(1, np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [rows, columns])


SCALE = {"s": np.array(1, np.float32), "z": np.array(0, np.uint8), "i": np.array(0, np.int8)}
ROWS = [node("Flatten", "x", "rows", axis=3)]  # (12, 4)
PIXEL_ROWS = [node("Transpose", "x", "nhwc", perm=[0, 2, 3, 1])]


def loop(body: Any) -> list[Any]:
    return [node("Loop", "n - x", "out", body=body)]


LOOP_INPUTS = ["i", "go", "a"]
