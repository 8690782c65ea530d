"""Costs of .pt2 programs: all that weights are multiplied with counts, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ExportError
from slimsight.compress.macs import count_macs
from slimsight.export.costs.of_torch import pt2_cost
from slimsight.export.pt2.export import export_pt2

IMAGE = torch.rand(1, 3, 8, 8)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.fc = nn.Parameter(torch.rand(64, 5)), nn.Linear(15, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc((images.flatten(2) @ self.weight).flatten(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.fc = nn.LSTM(64, 7, batch_first=True), nn.Linear(21, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.rows(images.flatten(2))[0].flatten(1))
        return out


def test_products_with_a_stored_weight_count(tmp_path: Path) -> None:
    export_pt2(Product(), IMAGE, tmp_path / "m.pt2")
    cost = pt2_cost(tmp_path / "m.pt2")
    assert [(layer.name, layer.macs) for layer in cost.layers] == [("weight", 3 * 64 * 5), ("fc", 45)]
    assert cost.macs == count_macs(Product(), IMAGE).total


def test_a_recurrent_layer_is_refused_by_name(tmp_path: Path) -> None:
    export_pt2(Recurrent(), IMAGE, tmp_path / "m.pt2")
    with pytest.raises(ExportError, match=r"the MACs of the operator 'lstm', which reads 'rows\.weight_ih_l0'"):
        pt2_cost(tmp_path / "m.pt2")
