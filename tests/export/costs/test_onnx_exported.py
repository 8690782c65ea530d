"""Files that torch exports, ONNX Runtime optimises and its tools quantize cost the same as the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.macs import count_macs
from slimsight.export.costs.of_onnx import onnx_cost
from slimsight.export.costs.onnx_sums import einsum_factors

onnxruntime.set_default_logger_severity(4)
PIXELS = 4 * 4


class Mixed(nn.Module):
    """Convolutions, a recurrent layer, an einsum and a head, some of them behind something."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.rows, self.head = nn.LSTM(16, 6, batch_first=True), nn.Linear(6, 5)
        self.mix = nn.Parameter(torch.rand(8, 8))

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        maps = F.relu(self.depthwise(maps) + maps)
        maps = torch.einsum("nchw,cd->ndhw", maps, self.mix)
        out: Tensor = self.head(self.rows(maps.flatten(2))[0].mean(1))
        return out


def export(model: nn.Module, path: Path, version: int = 17) -> int:
    """Write ``model`` by torch's older exporter; its MACs."""
    images = torch.rand(1, 3, 4, 4)
    torch.onnx.export(model.eval(), (images,), path, dynamo=False, input_names=["x"], opset_version=version)
    return count_macs(model, images).total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_files_that_onnx_runtime_has_optimised_cost_the_same(level: str, tmp_path: Path) -> None:
    macs = export(Mixed(), tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    assert onnx_cost(tmp_path / "m.onnx").macs == macs == PIXELS * (8 * 27 + 8 * 9 + 64) + 8 * 4 * 6 * 22 + 30
    kinds = {each.op_type for each in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert ("FusedConv" in kinds) == (level == "EXTENDED")
    assert onnx_cost(tmp_path / "optimised.onnx").macs == macs


class Images:
    """What onnxruntime.quantization calibrates on."""

    def __init__(self) -> None:
        self.left = 2

    def get_next(self) -> dict[str, Any] | None:
        self.left -= 1
        return {"x": np.random.default_rng(0).random((1, 3, 4, 4), np.float32)} if self.left else None


def static(form: str) -> Callable[[Path, Path], object]:
    def quantize(source: Path, target: Path) -> None:
        tools = pytest.importorskip("onnxruntime.quantization")
        form_of = getattr(tools.QuantFormat, form)
        tools.quantize_static(source, target, Images(), quant_format=form_of, per_channel=True)

    return quantize


def dynamic(source: Path, target: Path) -> None:
    pytest.importorskip("onnxruntime.quantization").quantize_dynamic(source, target)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantize", [static("QDQ"), static("QOperator"), dynamic], ids=["QDQ", "QOperator", "dynamic"])
def test_quantized_files_cost_the_same(quantize: Callable[[Path, Path], object], tmp_path: Path) -> None:
    macs = export(Mixed(), tmp_path / "m.onnx")
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert onnx_cost(tmp_path / "q.onnx").macs == macs


@pytest.mark.parametrize(
    ("equation", "shapes", "weight", "factors"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], 1, (3, 5, 1, 2)),
        ("ij,jk", [(2, 3), (3, 5)], 0, (3, 2, 1, 5)),
        ("bij,bjk->bik", [(4, 2, 3), (4, 3, 5)], 1, (3, 5, 4, 2)),
        ("...i,ij->...j", [(7, 2, 3), (3, 5)], 1, (3, 5, 1, 14)),
        ("b i j , j k -> i k", [(4, 2, 3), (3, 5)], 1, (3, 5, 1, 2)),
        ("ij,j->ij", [(2, 3), (3,)], 1, None),
        ("ij,k->ik", [(2, 3), (5,)], 1, None),
    ],
)
def test_factors_of_an_equation(
    equation: str, shapes: list[tuple[int, ...]], weight: int, factors: tuple[int, ...] | None
) -> None:
    assert einsum_factors(equation, shapes, weight=weight) == factors
