"""Every operator that holds weights counts as in the float file, or is refused by its name; none is free of cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from slimsight.compress.errors import ExportError
from slimsight.compress.macs import count_macs
from slimsight.export.costs.of_onnx import onnx_cost
from slimsight.export.costs.onnx_operators import refuse_uncounted

onnxruntime.set_default_logger_severity(4)
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


def loop(body: Any) -> list[Any]:
    return [node("Loop", "n - x", "out", body=body)]


LOOP_INPUTS = ["i", "go", "a"]
REFUSED: dict[str, tuple[list[Any], Tensors, str]] = {
    "of a domain of one's own": (
        [node("Product", "x w", domain="mine")],
        {"w": weights(4, 7)},
        "the operator 'Product' of mine at 'n_Product' may hold weights",
    ),
    "without weights that one sees": ([node("Magic", "x", domain="mine")], {}, "the operator 'Magic' of mine"),
    "of ONNX Runtime": (
        [node("MoE", "x w", domain=MICROSOFT)],
        {"w": weights(4, 7)},
        "the operator 'MoE' of com.microsoft",
    ),
    "of ONNX's own, and not counted": (
        [node("TfIdfVectorizer", "x")],
        {},
        "the operator 'TfIdfVectorizer' at 'n_TfIdfVectorizer' may hold weights",
    ),
    "of classical models": (
        [node("LinearClassifier", "x", domain="ai.onnx.ml", coefficients=[1.0, 2.0])],
        {},
        "the operator 'LinearClassifier' of ai.onnx.ml",
    ),
    "laid out for a processor": (
        [node("Conv", "x w", domain="com.microsoft.nchwc")],
        {"w": weights(8, 3, 1, 1)},
        "'Conv' of com.microsoft.nchwc at 'n_Conv' holds weights that were laid out for one processor",
    ),
    "in a loop": (
        loop(inside([node("Identity", "go", "on"), node("MatMul", "a w", "b")], LOOP_INPUTS, ["on", "b"])),
        {"n": np.array(3), "w": weights(4, 4)},
        "Loop 'n_Loop' repeats the MatMul 'n_MatMul' a number of times that depends on the data",
    ),
    "in a loop, unknown": (
        loop(inside([node("Magic", "a", "b", domain="mine")], LOOP_INPUTS, ["go", "b"])),
        {"n": np.array(3)},
        "the operator 'Magic' of mine",
    ),
    "scanned one by one": (
        [
            node("Squeeze", "x first", "a"),
            node(
                "Scan",
                "a w",
                "last",
                num_scan_inputs=1,
                body=inside([node("MatMul", "s v", "t")], ["s", "v"], ["t"]),
            ),
            node("Identity", "last"),
        ],
        {"first": np.array([0]), "w": weights(5, 4, 4)},
        "Scan 'n_Scan' repeats the MatMul 'n_MatMul'",
    ),
    "in a branch": (
        [
            node("ReduceMax", "x", "most", keepdims=0),
            node("Cast", "most", "c", to=9),
            node(
                "If",
                "c",
                "out",
                then_branch=inside([node("Magic", "x w", "t", domain="mine")], [], ["t"]),
                else_branch=inside([node("Identity", "x", "e")], [], ["e"]),
            ),
        ],
        {"w": weights(4, 7)},
        "the operator 'Magic' of mine|shapes in it are not known",
    ),
    "of three factors": (
        [node("Einsum", "x w v", equation="nchw,cd,de->nehw")],
        {"w": weights(3, 5), "v": weights(5, 6)},
        r"Einsum 'n_Einsum' \(nchw,cd,de->nehw\) holds weights among 3 factors",
    ),
    "written wrongly": (
        [node("Einsum", "x w", equation="nchw,cd,de->nehw")],
        {"w": weights(3, 5)},
        "has 3 operands, and 2 are given|shapes do not fit|Number of input tensors",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_counted_is_refused_by_name(name: str, tmp_path: Path) -> None:
    nodes, tensors, words = REFUSED[name]
    with pytest.raises(ExportError, match=words) as caught:
        onnx_cost(write(tmp_path / "m.onnx", nodes, tensors))
    assert "\n" not in str(caught.value)


def test_constants_that_anything_computes_are_no_layers(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a b", "w"), *loop(inside([node("Add", "a w", "b")], LOOP_INPUTS, ["go", "b"]))]
    assert (
        onnx_cost(write(tmp_path / "m.onnx", nodes, {"n": np.array(2), "a": weights(4, 4), "b": weights(4, 4)})).macs
        == 0
    )


def test_functions_of_the_file_are_counted_inside(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 19)]
    inner = helper.make_function("mine", "Pair", ["a", "w"], ["b"], [node("MatMul", "a w", "b")], opsets)
    outer = helper.make_function(
        "mine", "Twice", ["a", "w"], ["b"], [node("Pair", "a w", "c", "mine"), node("Pair", "c w", "b", "mine")],
        [*opsets, helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    path = write(tmp_path / "m.onnx", [node("Twice", "x w", domain="mine")], {"w": weights(4, 4)}, [inner, outer])
    assert onnx_cost(path).macs == 2 * 12 * 16


def test_operators_of_onnx_are_counted_free_or_of_a_known_few() -> None:
    """What is new in ONNX is refused until somebody says what it computes."""
    refused = set()
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "" and schema.since_version <= 21:
            try:
                refuse_uncounted(helper.make_node(schema.name, ["x"], ["y"]), Path("m.onnx"))
            except ExportError:
                refused.add(schema.name)
    losses = {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}
    texts = {"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"}
    assert refused - losses - texts == {"ImageDecoder", "TfIdfVectorizer"}


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
