"""Soft-TV prior of saliency maps, and the exact KL to it in time linear in the pixels (VarSal, Eq. 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import ConfigError


def alpha_limit(side: int) -> float:
    """Largest alpha for which K_side is positive definite: 1 / (2 cos(pi / (side + 1))), more than 0.5."""
    return 1 / (2 * math.cos(math.pi / (side + 1))) if side > 1 else math.inf


class SoftTVPrior:
    """N(0, K_h kron K_w) over maps (h, w), row-major; K_n = I + alpha on the first off-diagonals (n x n).

    Neighbours in a row or in a column correlate by alpha, so rough maps cost more: a soft total variation.

    Args:
        height, width: of the maps, in pixels.
        alpha: 0 (independent pixels) to ``alpha_limit`` of the longer side; 0.5 is valid for all sizes.

    Raises:
        ConfigError: with this alpha the covariance is not positive definite.
    """

    def __init__(self, height: int, width: int, alpha: float = 0.4) -> None:
        assert min(height, width) >= 1
        limit = min(alpha_limit(height), alpha_limit(width))
        if not 0 <= alpha < limit:
            raise ConfigError(
                f"alpha of the soft-TV prior is {alpha:g}; maps of {height} x {width} pixels allow 0 to less than "
                f"{limit:.6g}: choose one in between (0.5 is valid for all sizes, 0.4 the default)"
            )
        self.height, self.width, self.alpha = height, width, alpha
        self._rows, self._columns = _Inverse.of(height, alpha), _Inverse.of(width, alpha)
        self._log_det = width * self._rows.log_det + height * self._columns.log_det
        self._factors: dict[tuple[torch.device, torch.dtype], tuple[_Factors, _Factors]] = {}

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """(N,) KL(N(mean, diag(exp(log_variance))) || prior) in nats; differentiable once in both.

        Half of the paper's Eq. 7, which leaves out the factor 1/2.

        Args:
            mean, log_variance: (N, h, w) float32 or float64.
        """
        assert mean.shape[-2:] == (self.height, self.width), f"maps are {tuple(mean.shape)}"
        assert log_variance.shape == mean.shape
        rows, columns = self._on(mean)
        trace = torch.einsum("h,nhw,w->n", rows.diagonal, log_variance.exp(), columns.diagonal)
        constant = self._log_det - self.height * self.width
        half_square: Tensor = _HalfSquare.apply(mean, rows, columns)
        return half_square + (trace - log_variance.sum((1, 2)) + constant) / 2

    def precision_times(self, maps: Tensor) -> Tensor:
        """(N, h, w) K_h^-1 M K_w^-1 for every M of ``maps`` (N, h, w): two tridiagonal solves."""
        return _solve_both(maps, *self._on(maps))

    def _on(self, like: Tensor) -> tuple[_Factors, _Factors]:
        key = (like.device, like.dtype)
        if key not in self._factors:
            with torch.inference_mode(False):  # autograd rejects inference tensors: validation comes before training
                self._factors[key] = self._rows.to(like), self._columns.to(like)
        return self._factors[key]


@dataclass(frozen=True)
class _Factors:
    """``_Inverse`` as tensors of one device and dtype."""

    diagonal: Tensor
    levels: tuple[tuple[Tensor, Tensor, Tensor], ...]


@dataclass(frozen=True)
class _Inverse:
    """Inverse of K_n in factored form, float64.

    Attributes:
        log_det: log|K_n|, from the eigenvalues 1 + 2 alpha cos(j pi / (n + 1)).
        diagonal: (n,) of K_n^-1, from the eigenvectors sqrt(2 / (n + 1)) sin(i j pi / (n + 1)).
        levels: cyclic reduction. Each level eliminates every other remaining unknown (first, third, ...):
            (left, right, inverse pivot) couple an eliminated unknown to the kept ones after and before it.
    """

    log_det: float
    diagonal: NDArray[np.float64]
    levels: tuple[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], ...]

    @classmethod
    def of(cls, n: int, alpha: float) -> _Inverse:
        index = np.arange(1, n + 1)
        eigenvalues = 1 + 2 * alpha * np.cos(index * math.pi / (n + 1))
        squares = np.sin(np.outer(index, index) * math.pi / (n + 1)) ** 2 * (2 / (n + 1))
        pivots, couplings, levels = np.ones(n), np.full(n - 1, alpha), []
        while len(pivots):
            kept = len(pivots) // 2
            left = couplings[0::2] / pivots[0::2][:kept]
            right = couplings[1::2] / pivots[2::2]
            levels.append((left, right, 1 / pivots[0::2]))
            smaller = pivots[1::2] - left * couplings[0::2]
            smaller[: len(right)] -= right * couplings[1::2]
            between = max(kept - 1, 0)
            pivots, couplings = smaller, -right[:between] * couplings[2::2][:between]
        return cls(float(np.log(eigenvalues).sum()), squares @ (1 / eigenvalues), tuple(levels))

    def to(self, like: Tensor) -> _Factors:
        def tensor(values: NDArray[np.float64]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        levels = tuple((tensor(a)[:, None], tensor(b)[:, None], tensor(c)[:, None]) for a, b, c in self.levels)
        return _Factors(tensor(self.diagonal), levels)


class _HalfSquare(torch.autograd.Function):
    """(N,) 1/2 <M, K_h^-1 M K_w^-1>. Its gradient is the second factor, which the forward pass computes anyway."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, rows: _Factors, columns: _Factors) -> Tensor:
        solved = _solve_both(mean, rows, columns)
        ctx.save_for_backward(solved)
        return (mean * solved).sum((1, 2)) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (solved,) = ctx.saved_tensors
        return gradient[:, None, None] * solved, None, None


def _solve_both(maps: Tensor, rows: _Factors, columns: _Factors) -> Tensor:
    halfway = _solve_(maps.detach().clone(memory_format=torch.contiguous_format), rows)
    return _solve_(halfway.mT.contiguous(), columns).mT


def _solve_(x: Tensor, factors: _Factors) -> Tensor:
    """K^-1 x along dimension -2, in place, by cyclic reduction: O(n) work in 2 log2(n) vectorised sweeps.

    Schur complements of a positive definite matrix are positive definite: no pivoting is needed.
    """
    for level, (left, right, _) in enumerate(factors.levels):
        eliminated, kept = _eliminated_and_kept(x, level)
        kept.addcmul_(left, eliminated[..., : len(left), :], value=-1)
        kept[..., : len(right), :].addcmul_(right, eliminated[..., 1:, :], value=-1)
    for level, (left, right, inverse) in reversed(list(enumerate(factors.levels))):
        eliminated, kept = _eliminated_and_kept(x, level)
        eliminated.mul_(inverse)
        eliminated[..., : len(left), :].addcmul_(left, kept, value=-1)
        eliminated[..., 1:, :].addcmul_(right, kept[..., : len(right), :], value=-1)
    return x


def _eliminated_and_kept(x: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Rows that a level eliminates, and rows that it keeps."""
    step = 2**level
    return x[..., step - 1 :: 2 * step, :], x[..., 2 * step - 1 :: 2 * step, :]
