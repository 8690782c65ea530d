from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ExportError
from slimsight.export.to_onnx import conv_shapes, export_onnx, verify_shapes


def test_file_is_whole_named_and_of_any_batch_size(case):
    proto = onnx.load(case.onnx)
    graph = proto.graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits"]
    sizes = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, case.side, case.side]
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.opset_import[0].version == 18
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer)
    assert [path.name for path in case.onnx.parent.iterdir() if path.suffix != ".pt2"] == ["model.onnx"]


def test_batch_norm_is_folded_and_shapes_stay(case):
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(case.onnx).graph.node}
    expected = [
        tuple(module.weight.shape)
        for name, module in case.model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name != "unused"
    ]
    assert sorted(conv_shapes(case.onnx)) == sorted(expected)


def test_file_holds_no_paths_of_this_machine(case):
    for path in (case.onnx, case.pt2):
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


def test_verify_accepts_the_model_it_came_from(case):
    case.model.train()
    verify_shapes(case.onnx, case.model)
    assert all(module.training for module in case.model.modules())
    case.model.eval()


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_verify_names_the_layer_of_another_width(case, to_mixed: Callable[[int], nn.Module]):
    with pytest.raises(
        ExportError, match=r"layer 'block\.conv1' is 7x8x3x3 in the model and 10x8x3x3 in the file; export"
    ):
        verify_shapes(case.onnx, to_mixed(7))


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_verify_names_a_layer_that_the_file_lacks(case, to_mixed: Callable[[int], nn.Module]):
    longer = nn.Sequential(to_mixed(10), nn.Linear(10, 4))
    with pytest.raises(ExportError, match=r"layer '1' is 4x10 in the model and absent in the file"):
        verify_shapes(case.onnx, longer)


class Tokens(nn.Module):
    """A linear layer on (N, positions, channels), a MatMul in ONNX; a convolution without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 3, 2, 2))
        self.mix = nn.Linear(6, 9)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.conv2d(x, self.kernel, stride=2)
        return self.dropout(self.mix(x.flatten(2).transpose(1, 2))).mean(1)


def test_export_is_silent_leaves_the_model_alone_and_sees_functions(tmp_path, capfd):
    model = Tokens().train()
    model.dropout.eval()
    export_onnx(model, torch.rand(3, 3, 6, 6), tmp_path / "deep" / "tokens.onnx", opset=20)
    assert capfd.readouterr() == ("", "")
    assert [module.training for module in model.modules()] == [True, True, False]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert onnx.load(tmp_path / "deep" / "tokens.onnx").opset_import[0].version == 20
    assert conv_shapes(tmp_path / "deep" / "tokens.onnx") == [(6, 3, 2, 2), (9, 6)]
    verify_shapes(tmp_path / "deep" / "tokens.onnx", model)
    model.kernel = nn.Parameter(torch.randn(5, 3, 2, 2))
    model.mix = nn.Linear(5, 9)
    with pytest.raises(ExportError, match="layer 'kernel' is 5x3x2x2 in the model and 6x3x2x2 in the file"):
        verify_shapes(tmp_path / "deep" / "tokens.onnx", model)


class NoOnnxForm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x.flatten(2))


def test_operator_without_onnx_form_is_named(tmp_path, capfd):
    with pytest.raises(ExportError, match=r"NoOnnxForm has no ONNX form at opset 18: .*choose another opset"):
        export_onnx(NoOnnxForm(), torch.rand(2, 3, 4, 4), tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ExportError, match=re.escape(f"there is no {tmp_path / 'none.onnx'}: export the model")):
        conv_shapes(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"this is not a graph")
    with pytest.raises(
        ExportError, match=r"junk\.onnx is not an ONNX file, or only a part of one: export the model again"
    ):
        conv_shapes(tmp_path / "junk.onnx")


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="ONNX files need onnxscript: pip install onnx onnxscript"):
        export_onnx(nn.Flatten(), torch.rand(2, 3, 4, 4), tmp_path / "any.onnx")
