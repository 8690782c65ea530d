"""Costs of .pt2 programs: all that weights are multiplied with counts, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from slimsight.compress.errors import ExportError
from slimsight.compress.macs import count_macs
from slimsight.export.costs.of_torch import pt2_cost
from slimsight.export.pt2.export import export_pt2

IMAGE = torch.rand(1, 3, 8, 8)
OFFSETS = nn.Conv2d(3, 18, 1)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.fc = nn.Parameter(torch.rand(64, 5)), nn.Linear(15, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc((images.flatten(2) @ self.weight).flatten(1))
        return out


def test_products_with_a_stored_weight_count(tmp_path: Path) -> None:
    export_pt2(Product(), IMAGE, tmp_path / "m.pt2")
    cost = pt2_cost(tmp_path / "m.pt2")
    assert [(layer.name, layer.macs) for layer in cost.layers] == [("weight", 3 * 64 * 5), ("fc", 45)]
    assert cost.macs == count_macs(Product(), IMAGE).total


class Body(nn.Module):
    """A network of one line, with a weight, a buffer and a plain tensor of its own."""

    def __init__(self, body: Callable[[Body, Tensor], Tensor], *shape: int, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.layer = body, layer or nn.Identity()
        self.weight, self.plain = nn.Parameter(torch.rand(shape)), torch.rand(shape)
        self.register_buffer("stored", torch.rand(shape))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self, images)


def pooled(images: Tensor) -> Tensor:
    return images.mean((2, 3))


BODIES: dict[str, tuple[Body, int]] = {
    "LSTM": (Body(lambda net, x: net.layer(x.flatten(2))[0], layer=nn.LSTM(64, 7, batch_first=True)), 3 * 28 * 71),
    "LSTMCell": (Body(lambda net, x: net.layer(x.flatten(2)[:, 0])[0], layer=nn.LSTMCell(64, 7)), 28 * 71),
    "a transposed weight": (Body(lambda net, x: pooled(x) @ net.weight.T, 5, 3), 15),
    "a cast weight": (Body(lambda net, x: pooled(x) @ net.weight.round().to(torch.int8).float(), 3, 5), 15),
    "a buffer": (Body(lambda net, x: pooled(x) @ net.stored, 3, 5), 15),
    "a tensor that is no buffer": (Body(lambda net, x: pooled(x) @ net.plain, 3, 5), 15),
    "a literal": (Body(lambda net, x: pooled(x) @ torch.tensor([[1.0, 2], [3, 4], [5, 6]])), 6),
    "an identity": (Body(lambda net, x: pooled(x) @ torch.eye(3)), 9),
    "tensordot": (Body(lambda net, x: torch.tensordot(pooled(x), net.weight, 1), 3, 5), 15),
    "einsum": (Body(lambda net, x: torch.einsum("nchw,cd->ndhw", x, net.weight), 3, 5), 64 * 15),
    "einsum of three": (
        Body(lambda net, x: torch.einsum("nc,cd,de->ne", pooled(x), net.weight, net.stored.T), 3, 5),
        15 + 15,
    ),
    "unfolded convolution": (
        Body(lambda net, x: net.weight.flatten(1) @ F.unfold(x, 3, padding=1), 5, 3, 3, 3),
        64 * 135,
    ),
    "a mixture of kernels": (
        Body(
            lambda net, x: F.conv2d(x, (net.layer(pooled(x).mean(0)) @ net.weight).view(5, 3, 3, 3), padding=1),
            2,
            135,
            layer=nn.Linear(3, 2),
        ),
        6 + 2 * 135 + 64 * 135,
    ),
    "a transformer": (
        Body(lambda net, x: net.layer(x.flatten(2)), layer=nn.TransformerEncoderLayer(64, 2, 32, batch_first=True)),
        3 * (4 * 64 * 64 + 2 * 64 * 32),
    ),
    "a deformable convolution": (
        Body(
            lambda net, x: deform_conv2d(x, net.layer(x), net.weight, padding=1), 5, 3, 3, 3, layer=nn.Conv2d(3, 18, 1)
        ),
        64 * (3 * 18 + 135),
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_models_and_programs_count_all_that_is_multiplied_with_weights(name: str, tmp_path: Path) -> None:
    model, macs = BODIES[name]
    assert count_macs(model.eval(), IMAGE).total == macs
    export_pt2(model, IMAGE, tmp_path / "m.pt2")
    assert pt2_cost(tmp_path / "m.pt2").macs == macs


def test_an_operator_that_cannot_be_counted_is_named(tmp_path: Path) -> None:
    export_pt2(Body(lambda net, x: F.bilinear(pooled(x), pooled(x), net.weight), 5, 3, 3), IMAGE, tmp_path / "m.pt2")
    with pytest.raises(ExportError, match=r"m\.pt2: the MACs of the operator '_trilinear', .* of shape \(5, 3, 3\)"):
        pt2_cost(tmp_path / "m.pt2")


def test_of_a_program_of_several_images_one_counts(tmp_path: Path) -> None:
    program = torch.export.export(Product().eval(), (torch.rand(5, 3, 8, 8),))
    torch.export.save(program, tmp_path / "m.pt2")
    assert pt2_cost(tmp_path / "m.pt2").macs == 3 * 64 * 5 + 45
