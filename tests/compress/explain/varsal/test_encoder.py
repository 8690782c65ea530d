"""The encoder's shape, cost and memory."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.explain.varsal import explainer as encoder
from slimsight.compress.explain.varsal.explainer import Encoder
from slimsight.compress.macs import count_macs


def test_it_is_the_paper_s_network() -> None:
    network = Encoder()
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64] * 4 + [32] * 5 + [16] * 6 + [2]
    assert all((conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1)) for conv in convs)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 15  # none after the last convolution
    assert network.eval()(torch.rand(2, 3, 9, 12)).shape == (2, 2, 9, 12)


def test_its_cost_at_32_and_at_224_pixels() -> None:
    widths = (3, *[64] * 4, *[32] * 5, *[16] * 6, 2)
    per_pixel = sum(9 * a * b for a, b in pairwise(widths))
    assert count_macs(Encoder().eval(), torch.rand(1, 3, 32, 32)).total == 32**2 * per_pixel
    assert round(224**2 * per_pixel / 1e9, 1) == 9.2


def step(network: Encoder, images: Tensor) -> tuple[Tensor, int]:
    """Maps after one backward pass, and the bytes that were kept for it."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = network(images)
    bytes_kept = sum(kept.values())
    (maps * torch.arange(maps.numel()).reshape(maps.shape).cos()).sum().backward()
    return maps.detach(), bytes_kept


def test_recomputed_activations_change_nothing_but_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    kept = Encoder((8,) * 8)
    again = copy.deepcopy(kept)
    images = torch.rand(2, 3, 32, 32)
    maps, memory = step(kept, images)
    monkeypatch.setattr(encoder, "RECOMPUTE_ABOVE", 100)
    maps_again, memory_again = step(again, images)
    assert memory_again < memory / 3
    torch.testing.assert_close(maps_again, maps)
    for (name, a), (_, b) in zip(kept.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)
    for (name, a), (_, b) in zip(kept.named_buffers(), again.named_buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(b, a, msg=name)
    assert {m.momentum for m in again.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
