"""Which recipes, seeds and weights the ablations are measured at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIG_4B = ("full", "ce_only", "interpretation_rbf")
REALX = "interpretation_realx"
SWEEPS = {"steer_weight": (0.0125, 0.2, 0.8), "cost_weight": (0.5, 8.0)}
"""Beside what the recipes say; g1 = 0 is ce_only."""

SWEPT_SEED = 0


@dataclass(frozen=True)
class Point:
    """A recipe, a seed and at most one weight that is not the recipe's."""

    recipe: str
    seed: int
    weight: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        return "-".join([f"seed{self.seed}", self.recipe, *map(str, self.weight or ())])


def points(seeds: Sequence[int]) -> list[Point]:
    """All points, those that most depends on first."""
    terms = [Point(recipe, seed) for seed in seeds for recipe in FIG_4B] + [Point(REALX, seed) for seed in seeds]
    swept = [Point("full", SWEPT_SEED, (name, value)) for name, values in SWEEPS.items() for value in values]
    return terms + (swept if SWEPT_SEED in seeds else [])
