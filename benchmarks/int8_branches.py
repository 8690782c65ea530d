"""What INT8 would bring to the routed form: layers in the branches of an If, in FP32 and with Q/DQ nodes inside.

    .venv/bin/python benchmarks/int8_branches.py

Six convolutions 3x3 at 28x28 px, each plain or in both branches of an If of its own, as the routed form has them. Q/DQ
nodes stand inside the branches, since an If has no integer kernel. A row for each number of channels: what ONNX Runtime
makes of the branches, and the time over that of plain FP32 layers, in turn, one thread. onnxruntime.quantization puts
none into a branch: this graph is written by hand. Rows go to results/int8_branches.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slimsight.compress.files.atomic import write_json
from slimsight.deploy.machine import describe_machine, versions
from slimsight.export.onnx_files.graph import nested_graphs
from slimsight.export.runners import open_session

RESULTS = Path(__file__).resolve().parent / "results" / "int8_branches.json"
SIDE, LAYERS, ROUNDS = 28, 6, 300
CHANNELS = (64, 24, 16, 10)
SCALE, WEIGHT_SCALE = np.float32(0.05), np.float32(1e-3)

Row = dict[str, Any]


def layer(name: str, source: str, output: str, channels: int, *, int8: bool) -> tuple[list[Any], list[Any]]:
    """The nodes of a convolution with its ReLU, and what they read."""
    shape = (channels, channels, 3, 3)
    draw = np.random.default_rng(0)
    if not int8:
        values = {"w": draw.normal(0, 0.05, shape).astype(np.float32), "b": np.zeros(channels, np.float32)}
        nodes = [
            helper.make_node("Conv", [source, f"{name}w", f"{name}b"], [f"{name}sum"], name=name, pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{name}sum"], [output], name=f"{name}relu"),
        ]
        return nodes, [numpy_helper.from_array(value, name + key) for key, value in values.items()]
    values = {
        "w": draw.integers(-100, 101, shape).astype(np.int8),
        "ws": np.full(channels, WEIGHT_SCALE),
        "wz": np.zeros(channels, np.int8),
        "b": np.zeros(channels, np.int32),
        "bs": np.full(channels, SCALE * WEIGHT_SCALE),
        "bz": np.zeros(channels, np.int32),
        "s": np.asarray(SCALE),
        "z": np.asarray(np.uint8(0)),
    }

    def restore(what: str, output: str, keys: str, **options: int) -> Any:
        return helper.make_node("DequantizeLinear", [what, *(name + key for key in keys.split())], [output], **options)

    nodes = [
        helper.make_node("QuantizeLinear", [source, f"{name}s", f"{name}z"], [f"{name}in"]),
        restore(f"{name}in", f"{name}x", "s z"),
        restore(f"{name}w", f"{name}weight", "ws wz", axis=0),
        restore(f"{name}b", f"{name}bias", "bs bz", axis=0),
        helper.make_node(
            "Conv", [f"{name}x", f"{name}weight", f"{name}bias"], [f"{name}sum"], name=name, pads=[1, 1, 1, 1]
        ),
        helper.make_node("QuantizeLinear", [f"{name}sum", f"{name}s", f"{name}z"], [f"{name}out"]),
        restore(f"{name}out", output, "s z"),
    ]
    return nodes, [numpy_helper.from_array(value, name + key) for key, value in values.items()]


def to_model(channels: int, *, int8: bool, branches: bool) -> Any:
    """The network: ``images`` and, with branches, ``first`` (which of the two) -> the last layer's output."""
    maps = [1, channels, SIDE, SIDE]
    nodes: list[Any] = []
    stored: list[Any] = []
    source = "images"
    for number in range(LAYERS):
        output = f"maps{number}"
        if branches:
            inner = []
            for side in ("a", "b"):
                name = f"layer{number}{side}"
                made, read = layer(name, source, f"{name}maps", channels, int8=int8)
                value = helper.make_tensor_value_info(f"{name}maps", TensorProto.FLOAT, maps)
                inner.append(helper.make_graph(made, name, [], [value], read))
            options = {"then_branch": inner[0], "else_branch": inner[1]}
            nodes.append(helper.make_node("If", ["first"], [output], name=f"if{number}", **options))
        else:
            made, read = layer(f"layer{number}", source, output, channels, int8=int8)
            nodes, stored = nodes + made, stored + read
        source = output
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, maps)]
    inputs += [helper.make_tensor_value_info("first", TensorProto.BOOL, [])] if branches else []
    outputs = [helper.make_tensor_value_info(source, TensorProto.FLOAT, maps)]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def measure(channels: int) -> Row:
    sessions, operators = {}, {}
    for int8 in (False, True):
        for branches in (False, True):
            name = ("int8" if int8 else "fp32") + ("_branches" if branches else "")
            with tempfile.TemporaryDirectory() as folder:
                path, optimised = Path(folder) / "model.onnx", Path(folder) / "optimised.onnx"
                onnx.save(to_model(channels, int8=int8, branches=branches), path)
                sessions[name] = open_session(path, 1, optimised_to=optimised)
                graphs = nested_graphs(onnx.load(optimised).graph)
                operators[name] = dict(Counter(node.op_type for graph in graphs for node in graph.node))
    images = np.abs(np.random.default_rng(1).normal(size=(1, channels, SIDE, SIDE))).astype(np.float32)
    ms: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            feeds = {"images": images} | ({"first": np.array(True)} if "branches" in name else {})
            start = time.perf_counter_ns()
            session.run(None, feeds)
            ms[name].append((time.perf_counter_ns() - start) / 1e6)
    ratios = {name: float(np.median(np.array(times) / np.array(ms["fp32"]))) for name, times in ms.items()}
    return {"channels": channels, "fp32_ms": float(np.median(ms["fp32"])), "time_ratio": ratios, "operators": operators}


def main() -> None:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [measure(channels) for channels in CHANNELS]
    write_json(RESULTS, {"schema": 1, "versions": versions(), "machine": describe_machine(), "rows": rows})
    for row in rows:
        print(row["channels"], row["fp32_ms"], row["time_ratio"])


if __name__ == "__main__":
    main()
