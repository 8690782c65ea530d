"""INT8 engines: which files they are built from. TensorRT for RTX builds on machines without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.half.precision import ImageGraph, to_precision
from slimsight.export.tensorrt_build.export import export_engine

from .conftest import Quantised


def test_the_s8_form_is_taken_as_it_is(mixed: Quantised) -> None:
    path = mixed.made["s8"].path
    graph = to_precision(ImageGraph(path), "int8", None)
    assert (graph.precision, graph.int8_nodes) == ("int8", mixed.made["s8"].layers)
    assert len(graph.data) == path.stat().st_size


@pytest.mark.parametrize(
    ("form", "precision", "message"),
    [
        ("u8", "int8", r"model\.u8\.onnx is in the form u8: an INT8 engine is built from a file in the form s8"),
        (None, "int8", r"model\.onnx is in FP32: an INT8 engine is built from a file in the form s8"),
        ("s8", "fp32", r"model\.s8\.onnx is quantised: build it in int8, or give the FP32 file"),
        ("u8", "fp16", r"model\.u8\.onnx is quantised: build it in int8, or give the FP32 file"),
    ],
)
def test_a_file_in_another_form_is_refused(form: str | None, precision: str, message: str, mixed: Quantised) -> None:
    path = mixed.fp32 if form is None else mixed.made[form].path  # type: ignore[index]
    with pytest.raises(ExportError, match=message):
        to_precision(ImageGraph(path), precision, None)  # type: ignore[arg-type]


def test_tensorrt_for_rtx_builds_it_and_says_what_runs_in_integers(mixed: Quantised, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")
    built = export_engine(mixed.made["s8"].path, tmp_path / "int8.engine", flavour="tensorrt-rtx", precision="int8")
    assert {*built.integer_layers} | {*built.float_layers} == {*mixed.made["s8"].layers}
    assert {"block.conv2/Conv", "depthwise/Conv"} <= {*built.integer_layers}
    again = export_engine(mixed.made["s8"].path, tmp_path / "int8.engine", flavour="tensorrt-rtx", precision="int8")
    assert again.reused
    assert (again.integer_layers, again.float_layers) == (built.integer_layers, built.float_layers)
