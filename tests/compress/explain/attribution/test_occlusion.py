"""Occlusion: a map of what each patch adds to a logit, from outputs alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimsight.compress.explain.attribution.occlusion import Occlusion


class Corner(nn.Module):
    """Class 0 is the brightness of the upper left 4 x 4 pixels; no gradient passes."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images.detach()[:, :, :4, :4].mean((1, 2, 3))
        return torch.stack([corner, 1 - corner], 1)


def test_only_the_patch_that_counts_has_a_value_and_its_sign_is_of_the_class() -> None:
    images = torch.zeros(2, 3, 10, 10)
    images[:, :, :4, :4] = 1  # 16 of 100 pixels: the mean colour is .16
    found = Occlusion(Corner(), cells=3).explain(images, torch.tensor([0, 1]))
    assert found.maps.shape == (2, 10, 10)
    assert torch.allclose(found.maps[0, :4, :4], torch.tensor(0.84), atol=1e-6)
    assert torch.allclose(found.maps[1, :4, :4], torch.tensor(-0.84), atol=1e-6)
    rest = found.maps.clone()
    rest[:, :4, :4] = 0
    assert rest.abs().max() < 1e-6
    assert found.signed
