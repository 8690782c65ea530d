"""Every operator that holds weights counts as in the float file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from slimsight.compress.macs import count_macs
from slimsight.export.costs.of_onnx import onnx_cost

from .onnx_nodes import MICROSOFT, PIXEL_ROWS, PIXELS, ROWS, SCALE, Tensors, inside, node, sparse, weights, write

onnxruntime.set_default_logger_severity(4)
COUNTED: dict[str, tuple[list[Any], Tensors, int]] = {
    "FusedConv": (
        [node("FusedConv", "x w b", domain=MICROSOFT, activation="Relu", pads=[1, 1, 1, 1])],
        {"w": weights(8, 3, 3, 3), "b": weights(8)},
        PIXELS * 8 * 27,
    ),
    "FusedMatMul, transposed": (
        [*ROWS, node("FusedMatMul", "rows w", domain=MICROSOFT, transB=1, alpha=0.5)],
        {"w": weights(7, 4)},
        12 * 4 * 7,
    ),
    "FusedMatMul, weights on the left": (
        [*ROWS, node("FusedMatMul", "w rows", domain=MICROSOFT, transA=1)],
        {"w": weights(12, 7)},
        7 * 12 * 4,
    ),
    "FusedGemm": (
        [*ROWS, node("FusedGemm", "rows w b", domain=MICROSOFT, activation="Relu", transB=1)],
        {"w": weights(7, 4), "b": weights(7)},
        12 * 4 * 7,
    ),
    "QGemm": (
        [
            *ROWS,
            node("QuantizeLinear", "rows s z", "q"),
            node("QGemm", "q s z w s i - s z", "r", domain=MICROSOFT, transB=1),
            node("DequantizeLinear", "r s z"),
        ],
        {"w": weights(7, 4, kind=np.int8), **SCALE},
        12 * 4 * 7,
    ),
    "QLinearMatMul": (
        [
            *ROWS,
            node("QuantizeLinear", "rows s z", "q"),
            node("QLinearMatMul", "q s z w s i s z", "r"),
            node("DequantizeLinear", "r s z"),
        ],
        {"w": weights(4, 7, kind=np.int8), **SCALE},
        12 * 4 * 7,
    ),
    "MatMulIntegerToFloat": (
        [
            *ROWS,
            node("QuantizeLinear", "rows s z", "q"),
            node("MatMulIntegerToFloat", "q w s s z i", domain=MICROSOFT),
        ],
        {"w": weights(4, 7, kind=np.int8), **SCALE},
        12 * 4 * 7,
    ),
    "DynamicQuantizeMatMul": (
        [*ROWS, node("DynamicQuantizeMatMul", "rows w s i b", domain=MICROSOFT)],
        {"w": weights(4, 7, kind=np.int8), "b": weights(7), **SCALE},
        12 * 4 * 7,
    ),
    "MatMulNBits": (
        [
            node("Flatten", "x", "row"),
            node("MatMulNBits", "row w s4 z4", domain=MICROSOFT, K=48, N=7, bits=4, block_size=16),
        ],
        {"w": weights(7, 3, 8, kind=np.uint8), "s4": weights(21), "z4": weights(14, kind=np.uint8)},
        48 * 7,
    ),
    "Attention's projections": (
        [
            *PIXEL_ROWS,
            node("Reshape", "nhwc tokens", "t"),
            node("Attention", "t w b", domain=MICROSOFT, num_heads=1),
        ],
        {"tokens": np.array([1, 16, 3]), "w": weights(3, 9), "b": weights(9)},
        16 * 3 * 9,
    ),
    "Einsum": ([node("Einsum", "x w", equation="nchw,dc->ndhw")], {"w": weights(5, 3)}, PIXELS * 15),
    "Einsum, weights first": ([node("Einsum", "w x", equation="dc,n...cw->n...dw")], {"w": weights(5, 4)}, 3 * 4 * 20),
    "Einsum, implicit": ([*ROWS, node("Einsum", "rows w", equation="ij,jk")], {"w": weights(4, 7)}, 12 * 28),
    "Einsum, by group": ([node("Einsum", "x w", equation="nchw,cwk->nchk")], {"w": weights(3, 4, 7)}, 12 * 4 * 7),
    "Einsum that only scales": ([node("Einsum", "x w", equation="nchw,c->nchw")], {"w": weights(3)}, 0),
    "LSTM": (
        [
            node("Squeeze", "x first", "steps"),
            node("LSTM", "steps w r b", "- h", hidden_size=7, direction="bidirectional"),
            node("Identity", "h"),
        ],
        {"first": np.array([0]), "w": weights(2, 28, 4), "r": weights(2, 28, 7), "b": weights(2, 56)},
        3 * 4 * 2 * 28 * (4 + 7),
    ),
    "GRU, batch first": (
        [node("Squeeze", "x first", "steps"), node("GRU", "steps w r", hidden_size=7, layout=1)],
        {"first": np.array([0]), "w": weights(1, 21, 4), "r": weights(1, 21, 7)},
        3 * 4 * 21 * (4 + 7),
    ),
    "RNN": (
        [node("Squeeze", "x first", "steps"), node("RNN", "steps w r", hidden_size=7)],
        {"first": np.array([0]), "w": weights(1, 7, 4), "r": weights(1, 7, 7)},
        3 * 4 * 7 * (4 + 7),
    ),
    "ConvTranspose, grouped": (
        [node("ConvTranspose", "x w", group=3, strides=[2, 2])],
        {"w": weights(3, 2, 2, 2)},
        PIXELS * 3 * 2 * 4,
    ),
    "an embedding": (
        [node("Conv", "x c", "m"), node("Gather", "table number", "e"), node("Add", "m e")],
        {"c": weights(2, 3, 1, 1), "table": weights(9, 2, 1, 1), "number": np.array([4])},
        PIXELS * 6,
    ),
    "weights that are transposed": (
        [*ROWS, node("Transpose", "w", "v"), node("MatMul", "rows v")],
        {"w": weights(7, 4)},
        12 * 28,
    ),
    "weights that are a product": (
        [*ROWS, node("MatMul", "down up", "v"), node("MatMul", "rows v")],
        {"down": weights(4, 2), "up": weights(2, 7)},
        12 * 28,
    ),
    "weights that are cast and scaled": (
        [*ROWS, node("Cast", "w", "f", to=1), node("Mul", "f s", "v"), node("MatMul", "rows v")],
        {"w": weights(4, 7, kind=np.int8), **SCALE},
        12 * 28,
    ),
    "weights expanded to the image's shape": (
        [
            node("Shape", "x", "all", end=2),
            node("Concat", "all own", "shape", axis=0),
            node("Expand", "w shape", "v"),
            node("MatMul", "x v"),
        ],
        {"own": np.array([4, 7]), "w": weights(4, 7)},
        12 * 28,
    ),
    "weights of zeros of the image's size": (
        [
            node("Shape", "x", "side", start=3),
            node("Concat", "side side", "shape", axis=0),
            node("ConstantOfShape", "shape", "v"),
            node("MatMul", "x v"),
        ],
        {},
        12 * 16,
    ),
    "a sparse weight": (
        [node("Flatten", "x", "rows", axis=3), node("MatMul", "rows w")],
        {"w": sparse("w", 4, 7)},
        12 * 28,
    ),
    "a vector": ([node("MatMul", "x w")], {"w": weights(4)}, 12 * 4),
    "a Gemm with the weights on the left": (
        [*ROWS, node("Gemm", "w rows", transA=1)],
        {"w": weights(12, 7)},
        7 * 12 * 4,
    ),
    "a choice between weights": (
        [
            node("ReduceMax", "x", "most", keepdims=0),
            node("Cast", "most", "c", to=9),
            node(
                "If",
                "c",
                "v",
                then_branch=inside([node("Identity", "w", "t")], [], ["t"]),
                else_branch=inside([node("Neg", "w", "e")], [], ["e"]),
            ),
            node("MatMul", "x v"),
        ],
        {"w": weights(4, 7)},
        12 * 28,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_holds_weights_counts(name: str, tmp_path: Path) -> None:
    nodes, tensors, macs = COUNTED[name]
    cost = onnx_cost(write(tmp_path / "m.onnx", nodes, tensors))
    assert cost.macs == macs
    for layer in cost.layers:
        assert layer.macs * layer.groups == layer.outputs * layer.inputs * layer.kernel * layer.positions


@pytest.mark.parametrize(
    ("name", "params"),
    [("MatMulNBits", 48 * 7), ("QGemm", 28), ("a sparse weight", 28), ("DynamicQuantizeMatMul", 35), ("Einsum", 15)],
)
def test_parameters_are_those_of_the_float_file(name: str, params: int, tmp_path: Path) -> None:
    nodes, tensors, _ = COUNTED[name]
    assert onnx_cost(write(tmp_path / "m.onnx", nodes, tensors)).params == params


def test_functions_of_the_file_are_counted_inside(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 19)]
    inner = helper.make_function("mine", "Pair", ["a", "w"], ["b"], [node("MatMul", "a w", "b")], opsets)
    outer = helper.make_function(
        "mine", "Twice", ["a", "w"], ["b"], [node("Pair", "a w", "c", "mine"), node("Pair", "c w", "b", "mine")],
        [*opsets, helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    path = write(tmp_path / "m.onnx", [node("Twice", "x w", domain="mine")], {"w": weights(4, 4)}, [inner, outer])
    assert onnx_cost(path).macs == 2 * 12 * 16


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 5, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv(images, self.offset(images)).mean((2, 3))
        return out


@pytest.mark.filterwarnings("ignore")
def test_deformable_convolutions_cost_the_same(tmp_path: Path) -> None:
    nodes = [node("Conv", "x o", "offset", pads=[1] * 4), node("DeformConv", "x w offset b", pads=[1] * 4)]
    tensors = {"o": weights(18, 3, 3, 3), "w": weights(5, 3, 3, 3), "b": weights(5)}
    cost = onnx_cost(write(tmp_path / "m.onnx", nodes, tensors))
    assert cost.macs == count_macs(Deformed(), torch.rand(1, 3, 4, 4)).total == PIXELS * 27 * (18 + 5)
    assert [layer.params for layer in cost.layers] == [18 * 27, 5 * 27 + 5]
