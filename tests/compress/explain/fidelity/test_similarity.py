import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from slimsight.compress.errors import DataError
from slimsight.compress.explain.fidelity.similarity import scaled, spearman, ssim


def naive_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, window by window."""
    c1, c2, found = (0.01 * 2) ** 2, (0.03 * 2) ** 2, []
    x, y = a.double().numpy(), b.double().numpy()
    for row in range(x.shape[0] - 4):
        for column in range(x.shape[1] - 4):
            u, v = (m[row : row + 5, column : column + 5].ravel() for m in (x, y))
            covariance = np.cov(u, v)
            above = (2 * u.mean() * v.mean() + c1) * (2 * covariance[0, 1] + c2)
            found.append(above / ((u.mean() ** 2 + v.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)))
    return float(np.mean(found))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Related maps in [-1, 1], the second quantised: full of ties."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(4, 9, 11, generator=generator) * 2 - 1
    b = ((a + torch.randn(4, 9, 11, generator=generator)) * 2).round()
    return a, scaled(b)


def test_rank_correlation_is_scipys_ties_included(pair: tuple[Tensor, Tensor]) -> None:
    found = spearman(*pair)
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(*pair, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert spearman(pair[0], pair[0]).tolist() == pytest.approx([1.0] * 4)
    assert spearman(pair[0], -pair[0]).tolist() == pytest.approx([-1.0] * 4)


def test_a_constant_map_has_no_rank_correlation(pair: tuple[Tensor, Tensor]) -> None:
    a = pair[0].clone()
    a[2] = 0.5
    assert spearman(a, pair[1]).isnan().tolist() == [False, False, True, False]
    assert spearman(pair[1], a).isnan().tolist() == [False, False, True, False]


def test_structural_similarity_is_the_papers(pair: tuple[Tensor, Tensor]) -> None:
    assert ssim(*pair).tolist() == pytest.approx([naive_ssim(a, b) for a, b in zip(*pair, strict=True)], abs=1e-10)
    assert ssim(pair[0], pair[0]).tolist() == pytest.approx([1.0] * 4)


def test_maps_are_scaled_by_their_largest_magnitude() -> None:
    maps = torch.tensor([[[-4.0, 2.0]], [[0.0, 0.0]], [[3.0, 3.0]]])
    assert scaled(maps).tolist() == [[[-1.0, 0.5]], [[0.0, 0.0]], [[1.0, 1.0]]]


def test_maps_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(DataError, match="images of 8 x 4 pixels are too small for SSIM's window of 5 x 5"):
        ssim(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
