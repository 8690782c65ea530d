"""What engines say of themselves, in the words of their inspector and of their builder."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.engines.readback import (
    EngineLayer,
    check_layers,
    count_types,
    inspected_layers,
    integer_nodes,
    logged_layers,
)


def layer(node: str, *types: str, kind: str = "conv") -> EngineLayer:
    return EngineLayer(kind, (node,), frozenset(types))


def inspected(layers: list[Any]) -> list[EngineLayer]:
    text = json.dumps({"Layers": layers, "Bindings": ["images", "logits"]})
    inspector = SimpleNamespace(get_engine_information=lambda kind: text)
    trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=1))
    return inspected_layers(trt, SimpleNamespace(create_engine_inspector=lambda: inspector))


def test_the_inspectors_words_are_read() -> None:
    found = inspected(
        [
            {
                "Name": "conv1 + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "a", "Format/Datatype": "Channel major FP16 format where C % 8 == 0"}],
                "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear FP32 format"}],
                "Weights": {"Type": "Half", "Count": 3},
                "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: relu]",
            },
            {
                "Name": "mm",
                "LayerType": "gemm",
                "Inputs": [{"Name": "b", "Datatype": "BFloat16"}],
                "Outputs": [{"Name": "c", "Datatype": "Int64"}],
                "Metadata": "[ONNX Layer: Gemm/3 | branch/2 (then_branch) | route/1 (If)]",
            },
            "a layer that gives only its name",
        ]
    )
    assert found == [
        EngineLayer("CaskConvolution", ("conv1", "relu"), frozenset({"float16", "float32"})),
        EngineLayer("gemm", ("Gemm/3",), frozenset({"bfloat16", "int64"})),
    ]
    assert count_types(found) == {"bfloat16": 1, "float16+float32": 1}


def test_the_builders_report_is_read_without_the_types_of_weights() -> None:
    report = (
        "Layers:\n"
        "Name: conv, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,3], Datatype: Half, Format: x }], "
        "Constants: [ { Name: one, Dimensions: [1], Datatype: Float, Format: y }], "
        "Outputs: [ { Name: b, Datatype: Half }], TacticName: , StreamId: 0, "
        "Metadata: [ONNX Layer: route/1][ONNX Layer: Conv/3 | branch/2 (then_branch) | x (If)]\n"
        "Name: jump, LayerType: cjmp, Inputs: [ { Name: c, Datatype: Int64 }], Constants: [], Outputs: [], Metadata: \n"
        "\nI/O Tensors:\n Name: images, DataType: Float\n"
    )
    found = logged_layers(["something else", report, "Adding 1 engine(s) to plan file."])
    assert found == [
        EngineLayer("correlation", ("route/1", "Conv/3"), frozenset({"float16"})),
        EngineLayer("cjmp", (), frozenset({"int64"})),
    ]
    assert count_types(found) == {"float16": 1}
    assert logged_layers(["something else"]) == []


def test_layers_must_compute_in_what_was_asked_for() -> None:
    half = [layer("conv", "float16"), layer("linear", "float32")]
    check_layers(half, fp16_nodes=["conv"], fp32_nodes=["linear"], what="it", strict=True, pure=False)
    check_layers(half[:1], fp16_nodes=["conv"], fp32_nodes=["linear"], what="it", strict=False, pure=False)
    with pytest.raises(ExportError, match="it computes node 'linear' in float32 where float16 was asked for"):
        check_layers(half, fp16_nodes=["conv", "linear"], fp32_nodes=[], what="it", strict=True, pure=False)
    with pytest.raises(ExportError, match="it computes node 'conv' in float16 where float32 was asked for"):
        check_layers(half, fp16_nodes=[], fp32_nodes=["conv", "linear"], what="it", strict=True, pure=False)
    with pytest.raises(ExportError, match=r"does not say what node 'linear' computes in \(1 of 2 such nodes\)"):
        check_layers(half[:1], fp16_nodes=["conv"], fp32_nodes=["linear"], what="it", strict=True, pure=False)
    with pytest.raises(ExportError, match=r"does not say what node 'conv' computes in \(1 of 1 such nodes\)"):
        check_layers([], fp16_nodes=["conv"], fp32_nodes=[], what="it", strict=False, pure=False)
    # An fp32 engine computes nothing in FP16, whichever node it is for.
    mixed = [*half[1:], layer("add", "float16")]
    check_layers(mixed, fp16_nodes=[], fp32_nodes=["linear"], what="it", strict=True, pure=False)
    with pytest.raises(ExportError, match="it computes in float16 where float32 was asked for"):
        check_layers(mixed, fp16_nodes=[], fp32_nodes=["linear"], what="it", strict=True, pure=True)


def test_a_product_is_in_integers_where_the_layer_that_multiplies_reads_them() -> None:
    """Pointwise kernels before and behind it bear its name too, whatever they read."""

    def named(kind: str, node: str, *reads: str) -> EngineLayer:
        return EngineLayer(kind, (node,), frozenset({"float32", "int8"}), frozenset(reads))

    layers = [
        named("kgen", "a", "float32"),
        named("correlation", "a", "int8"),
        named("kgen", "a", "float32"),
        named("correlation", "b", "float32"),
        named("kgen", "b", "float32", "int8"),  # an int8 residual
        named("kgen", "c", "int8"),  # nothing but pointwise kernels
        named("CaskConvolution", "d", "int8", "float32"),
        named("CaskConvolution", "e", "int8"),
        named("CaskConvolution", "e", "float32"),  # a second part of it in floats
    ]
    assert integer_nodes(layers, ["a", "b", "c", "d", "e", "absent"]) == ("a", "d")


def test_what_a_layer_reads_is_told_from_what_it_writes() -> None:
    text = "{ Name: x, Datatype: %s }"
    line = f"Name: n, LayerType: correlation, Inputs: [ {text % 'Int8'}], Constants: [ {text % 'Half'}], Outputs: [ "
    (logged,) = logged_layers([f"Layers:\n{line}{text % 'Float'}], Metadata: [ONNX Layer: a]\n"])
    assert (logged.types, logged.reads) == (frozenset({"int8", "float32"}), frozenset({"int8"}))
    (found,) = inspected([{"LayerType": "x", "Inputs": [{"Datatype": "Int8"}], "Outputs": [{"Datatype": "Float"}]}])
    assert (found.types, found.reads) == (frozenset({"int8", "float32"}), frozenset({"int8"}))
