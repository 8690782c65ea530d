"""MACs counted from a file's graph equal fvcore's on the module, to the MAC, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ExportError
from slimsight.compress.macs import count_macs, count_params
from slimsight.compress.models import build_classifier
from slimsight.export.costs.of_onnx import onnx_bytes, onnx_cost
from slimsight.export.costs.of_torch import module_cost, pt2_cost
from slimsight.export.pt2.export import export_pt2
from slimsight.export.to_onnx import export_onnx


class Odd(nn.Module):
    """A layer called twice at two sizes, grouped, depthwise and transposed convolutions, a head without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(12, 24, 3, groups=3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, (3, 1), groups=24)
        self.up = nn.ConvTranspose2d(24, 8, 2, stride=2, groups=2)
        self.mixed = nn.Linear(8, 6)
        self.head = nn.Linear(6, 5, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.twice(self.first(images).relu())
        x = self.twice(nn.functional.avg_pool2d(x, 2))
        x = self.up(self.depthwise(self.grouped(x)))
        pixels = self.mixed(x.flatten(2).transpose(1, 2)).relu()
        return self.head(pixels.mean(1))


def shapes(cost: Any) -> dict[str, tuple[int, ...]]:
    return {
        layer.name: (
            layer.macs,
            layer.inputs,
            layer.outputs,
            layer.groups,
            layer.kernel,
            layer.positions,
            layer.reads,
        )
        for layer in cost.layers
    }


@pytest.mark.parametrize(("name", "side"), [("odd", 16), ("resnet20", 32), ("torchvision:squeezenet1_1", 48)])
def test_files_and_modules_cost_the_same(name: str, side: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd() if name == "odd" else build_classifier(ModelConfig(name=name), 10)
    for parameter in model.parameters():  # the exporter stores equal tensors once
        nn.init.uniform_(parameter, 0.01, 1.0)
    image = torch.rand(1, 3, side, side)
    export_onnx(model.eval(), image, tmp_path / "model.onnx")
    export_pt2(model, image, tmp_path / "model.pt2")
    counted = count_macs(model, image)
    in_onnx, in_pt2 = onnx_cost(tmp_path / "model.onnx"), pt2_cost(tmp_path / "model.pt2")
    in_torch = module_cost(model, (3, side, side))
    assert in_onnx.macs == in_pt2.macs == in_torch.macs == counted.total
    assert {layer.name: layer.macs for layer in in_onnx.layers} == counted.layers
    assert shapes(in_onnx) == shapes(in_pt2) == shapes(in_torch)
    assert in_pt2.params == in_torch.params == count_params(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert in_onnx.params == count_params(model) - sum(
        norm.num_features for norm in norms
    )  # weights folded, biases not
    assert in_onnx.image == in_pt2.image == (3, side, side)
    for layer in in_onnx.layers:
        assert layer.macs * layer.groups == layer.outputs * layer.inputs * layer.kernel * layer.positions


def write(path: Path, nodes: list[Any], tensors: dict[str, Any], dims: list[Any], *, out: str = "out") -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(proto.SerializeToString())
    return path


WEIGHT = np.ones((8, 3, 3, 3), np.float32)
CONV = helper.make_node("Conv", ["x", "w"], ["out"], name="/features/0/Conv", pads=[1, 1, 1, 1])


def test_of_a_fixed_batch_one_image_counts(tmp_path: Path) -> None:
    one = onnx_cost(write(tmp_path / "1.onnx", [CONV], {"w": WEIGHT}, [1, 3, 4, 4]))
    assert one.macs == 8 * 27 * 16
    assert onnx_cost(write(tmp_path / "5.onnx", [CONV], {"w": WEIGHT}, [5, 3, 4, 4])) == one
    assert [layer.name for layer in one.layers] == ["features/0"]


def test_a_file_of_any_size_wants_to_be_told_one(tmp_path: Path) -> None:
    path = write(tmp_path / "any.onnx", [CONV], {"w": WEIGHT}, ["n", 3, "h", "w"])
    with pytest.raises(
        ExportError, match=r"takes images of any size: say which MACs are meant, e\.g\. --input 3x224x224"
    ):
        onnx_cost(path)
    assert onnx_cost(path, (3, 10, 10)).macs == 8 * 27 * 100
    with pytest.raises(ExportError, match="takes images of 3xanyxany, not 1x10x10: leave --input out"):
        onnx_cost(path, (1, 10, 10))


def test_products_of_two_activations_are_no_layer(tmp_path: Path) -> None:
    nodes = [CONV, helper.make_node("MatMul", ["out", "out"], ["scores"])]
    assert onnx_cost(write(tmp_path / "a.onnx", nodes, {"w": WEIGHT}, [1, 3, 4, 4], out="scores")).macs == 8 * 27 * 16


def test_weights_behind_a_dequantization_are_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["conv.weight_quantized", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["out"], pads=[1, 1, 1, 1]),
    ]
    tensors = {
        "conv.weight_quantized": np.ones((8, 3, 3, 3), np.int8),
        "scale": np.ones(8, np.float32),
        "zero": np.zeros(8, np.int8),
    }
    found = onnx_cost(write(tmp_path / "q.onnx", nodes, tensors, [1, 3, 4, 4]))
    assert (found.macs, found.params, [layer.name for layer in found.layers]) == (8 * 27 * 16, 8 * 27, ["conv"])


def test_of_two_branches_the_dearer_counts(tmp_path: Path) -> None:
    def branch(name: str, width: int) -> Any:
        weight = numpy_helper.from_array(np.ones((width, 3, 1, 1), np.float32), f"{name}.weight")
        node = helper.make_node("Conv", ["x", f"{name}.weight"], [f"{name}.out"])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None)], [weight]
        )

    nodes = [helper.make_node("If", ["c"], ["out"], then_branch=branch("small", 2), else_branch=branch("large", 8))]
    found = onnx_cost(write(tmp_path / "if.onnx", nodes, {"c": np.array(True)}, ["n", 3, 4, 4]))
    assert (found.macs, [layer.name for layer in found.layers]) == (8 * 3 * 16, ["large"])


def test_shapes_that_are_computed_from_data_are_measured(tmp_path: Path) -> None:
    """Of the rows that a mask keeps nobody knows the number but the runtime."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Compress", ["flat", "mask"], ["some"], axis=1),
        helper.make_node("Gemm", ["some", "head.weight"], ["out"], transB=1),
    ]
    tensors = {"mask": np.arange(48) % 2 == 0, "head.weight": np.ones((5, 24), np.float32)}
    assert onnx_cost(write(tmp_path / "c.onnx", nodes, tensors, ["n", 3, 4, 4])).macs == 5 * 24


def test_what_is_no_model_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ExportError, match="is not an ONNX file, or only a part of one"):
        onnx_cost(tmp_path / "broken.onnx")
    with pytest.raises(ExportError, match="there is no"):
        onnx_cost(tmp_path / "none.onnx")
    nodes = [helper.make_node("Gemm", ["x", "w"], ["out"])]
    path = write(tmp_path / "vector.onnx", nodes, {"w": np.ones((7, 5), np.float32)}, ["n", 7])
    with pytest.raises(ExportError, match=r"takes no single input of images \(batch, C, H, W\)"):
        onnx_cost(path)


def test_weights_in_another_file_are_part_of_the_size(tmp_path: Path) -> None:
    write(tmp_path / "whole.onnx", [CONV], {"w": WEIGHT}, [1, 3, 4, 4])
    proto = onnx.load(tmp_path / "whole.onnx")
    onnx.save(proto, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    beside = (tmp_path / "weights.bin").stat().st_size
    assert onnx_bytes(tmp_path / "split.onnx") == (tmp_path / "split.onnx").stat().st_size + beside
    assert onnx_cost(tmp_path / "split.onnx") == onnx_cost(tmp_path / "whole.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExportError, match=r"weights\.bin, which is missing: copy both"):
        onnx_bytes(tmp_path / "split.onnx")
