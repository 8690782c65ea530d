"""References for removed pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimsight.compress.explain.varsal.objective import blur, draw_references, perturb
from slimsight.compress.models import Normalize


@pytest.fixture
def photos() -> Tensor:
    return torch.rand(300, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def test_the_mask_mixes_image_and_reference(photos: Tensor) -> None:
    references = 1 - photos
    mask = torch.rand(300, 1, 12, 10)
    expected = photos * mask + references * (1 - mask)
    torch.testing.assert_close(perturb(photos, mask, references), expected)
    assert torch.equal(perturb(photos, torch.zeros(300, 1, 12, 10), references), references)


def test_before_and_after_normalisation_is_the_same_perturbation(photos: Tensor) -> None:
    normalize = Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    mask = torch.rand(300, 1, 12, 10)
    torch.manual_seed(3)
    before = normalize(perturb(photos, mask, draw_references(photos)))
    torch.manual_seed(3)
    after = perturb(normalize(photos), mask, draw_references(normalize(photos)))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def naive_blur(channel: list[list[float]], rows: float, columns: float) -> list[list[float]]:
    """Pixel by pixel; the weights of a row and of a column sum to 1."""
    height, width = len(channel), len(channel[0])

    def weights(size: int, centre: int, sigma: float) -> list[float]:
        raw = [math.exp(-((i - centre) ** 2) / (2 * sigma**2)) for i in range(size)]
        return [value / sum(raw) for value in raw]

    return [
        [
            sum(
                a * b * channel[i][j]
                for i, a in enumerate(weights(height, r, rows))
                for j, b in enumerate(weights(width, c, columns))
            )
            for c in range(width)
        ]
        for r in range(height)
    ]


def test_each_image_is_blurred_by_its_own_width(photos: Tensor) -> None:
    widths = torch.tensor([0.05, 0.25])
    blurred = blur(photos[:2], widths)
    for image, found, share in zip(photos, blurred, widths.tolist(), strict=False):
        expected = naive_blur(image[1].double().tolist(), share * 12, share * 10)
        torch.testing.assert_close(found[1].double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_each_image_gets_one_of_three_references_by_equal_chance() -> None:
    torch.manual_seed(0)
    photos = torch.rand(300, 3, 32, 32)
    found = draw_references(photos)
    roughness = (found[:, :, 1:] - found[:, :, :-1]).std((1, 2, 3)) / photos.std()
    blurred, mean, noise = roughness < 0.1, (roughness > 0.2) & (roughness < 0.4), roughness > 1
    counts = [int(kind.sum()) for kind in (blurred, mean, noise)]
    assert sum(counts) == 300
    assert all(70 < count < 130 for count in counts), counts
    torch.testing.assert_close(found[mean].mean((2, 3)), photos[mean].mean((2, 3)), rtol=0, atol=0.03)
    torch.testing.assert_close(found[noise].mean(), photos.mean(), rtol=0, atol=0.01)


def test_a_uniform_image_is_its_own_reference() -> None:
    grey = torch.full((6, 3, 9, 9), 0.5)
    torch.testing.assert_close(draw_references(grey), grey)
