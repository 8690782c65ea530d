"""Small ONNX files, written without torch: a chain of convolutions and a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Chain = Callable[..., Path]

BUDGET = "macs: 1.6M\nparams: 60k\n"


def write_chain(path: Path, widths: Sequence[int] = (16, 20, 24), side: int = 16) -> Path:
    """Convolutions ``conv0``, ``conv1``, ... of 3x3, the first with stride 2; the head gives 10 logits. Any batch."""
    draw = np.random.default_rng(0)
    nodes, tensors, inputs, channels = [], [], "images", 3
    for place, width in enumerate(widths):
        weight = draw.normal(size=(width, channels, 3, 3)).astype(np.float32)
        tensors += [
            numpy_helper.from_array(weight, f"conv{place}.weight"),
            numpy_helper.from_array(np.zeros(width, np.float32), f"conv{place}.bias"),
        ]
        given = [inputs, f"conv{place}.weight", f"conv{place}.bias"]
        stride = 2 if place == 0 else 1
        nodes += [
            helper.make_node("Conv", given, [f"c{place}"], pads=[1] * 4, strides=[stride] * 2),
            helper.make_node("Relu", [f"c{place}"], [f"r{place}"]),
        ]
        inputs, channels = f"r{place}", width
    head = draw.normal(size=(10, channels)).astype(np.float32)
    tensors += [numpy_helper.from_array(head, "head.weight")]
    nodes += [
        helper.make_node("GlobalAveragePool", [inputs], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.weight"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """``chain(name, widths)``: a file of that name."""
    return lambda name, *widths: write_chain(tmp_path / name, *([widths] if widths else []))


@pytest.fixture
def budget(tmp_path: Path) -> Callable[[str], Path]:
    """``budget("macs: 5M")``: a budget file."""

    def write(text: str) -> Path:
        path = tmp_path / "budget.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
