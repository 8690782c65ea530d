"""Operators that may hold weights and cannot be counted are refused by name; none is free of cost unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from slimsight.compress.errors import ExportError
from slimsight.export.costs.of_onnx import onnx_cost
from slimsight.export.costs.onnx_operators import refuse_uncounted

from .onnx_nodes import LOOP_INPUTS, MICROSOFT, Tensors, inside, loop, node, weights, write

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
