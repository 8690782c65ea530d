from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.runners.inputs import ImageInput, read_input


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_files_say_what_they_take(case) -> None:
    assert read_input(case.onnx) == read_input(case.pt2) == ImageInput((case.side, case.side), None)


def _write(path: Path, shape: list[int | str], kind: int = onnx.TensorProto.FLOAT, inputs: int = 1) -> Path:
    given = [onnx.helper.make_tensor_value_info(f"x{k}", kind, shape) for k in range(inputs)]
    node = onnx.helper.make_node("Identity", ["x0"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", kind, shape)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", given, [output])), path)
    return path


def test_a_fixed_batch_and_any_size_are_read(tmp_path: Path) -> None:
    assert read_input(_write(tmp_path / "a.onnx", [1, 3, 8, 9])) == ImageInput((8, 9), 1)
    assert read_input(_write(tmp_path / "b.onnx", ["n", 3, "h", "w"])) == ImageInput(None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ["n", 8, 8, 3]}, r"takes \(any, 8, 8, 3\) float: .* are needed, export it with channels first"),
        ({"shape": ["n", 1, 8, 8]}, r"takes \(any, 1, 8, 8\) float: images as \(batch, 3, H, W\) float32 are needed$"),
        ({"shape": ["n", 3]}, r"takes \(any, 3\) float: images as"),
        ({"shape": [1, 3, 8, 8], "kind": onnx.TensorProto.UINT8}, r"uint8: .*, export it with a float32 input"),
        ({"shape": [1, 3, 8, 8], "inputs": 2}, "has 2 inputs and 1 nodes: one input of images is needed"),
    ],
)
def test_what_takes_no_images_is_refused(tmp_path: Path, options, message) -> None:
    with pytest.raises(ExportError, match=message):
        read_input(_write(tmp_path / "x.onnx", **options))


def test_parts_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match="has 0 inputs and 0 nodes"):
        read_input(tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=r"there is no .*none\.pt2: give a file that was exported"):
        read_input(tmp_path / "none.pt2")
