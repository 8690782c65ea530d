"""Means over images with their standard errors, and curves of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error over the ``images`` that define a figure; None for none (or one, for the error)."""

    mean: float | None
    standard_error: float | None
    images: int

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Of values (N,), one per image; images with NaN do not define the figure and are not counted."""
        values = values.double()
        values = values[~values.isnan()]
        count = len(values)
        error = float(values.std() / count**0.5) if count > 1 else None
        return cls(float(values.mean()) if count else None, error, count)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Curve:
    """A figure as a function of the share of an image that is removed (or shown).

    ``area`` is the area under the curve divided by the width of its range, so it has the figure's unit.
    """

    shares: tuple[float, ...]
    values: tuple[Estimate, ...]
    area: Estimate
    areas: Tensor = field(repr=False, compare=False)
    """(N,) the area of every image, for paired differences."""

    @classmethod
    def of(cls, shares: Sequence[float], values: Tensor) -> Curve:
        """Of values (N, S) at S >= 2 ascending shares; trapezoidal rule."""
        assert values.shape[1] == len(shares) >= 2
        at = torch.tensor(shares, dtype=torch.float64)
        areas = torch.trapezoid(values.double(), at, dim=1) / (at[-1] - at[0])
        points = tuple(Estimate.of(column) for column in values.unbind(1))
        return cls(tuple(shares), points, Estimate.of(areas), areas)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the areas of single images."""
        return {
            "shares": list(self.shares),
            "values": [value.to_dict() for value in self.values],
            "area": self.area.to_dict(),
        }


def paired(ours: Curve, theirs: Curve) -> Estimate:
    """Mean paired difference of areas, ours - theirs, on the same images: variance between images cancels."""
    return Estimate.of(ours.areas - theirs.areas)
