"""Intervals of shares of images."""

from __future__ import annotations

from typing import Final

_OF_NORMAL: Final = 1.959964  # 97.5 % quantile of the normal distribution


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % score interval of a share of ``count`` images (Wilson 1927)."""
    z = _OF_NORMAL**2 / count
    centre = (share + z / 2) / (1 + z)
    half = _OF_NORMAL / (1 + z) * (share * (1 - share) / count + z / (4 * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
