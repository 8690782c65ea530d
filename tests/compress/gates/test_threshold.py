"""The search for a plan where time has plateaus: many plans take the same, but for rounding."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from slimsight.compress.gates.threshold import exchange_steps
from slimsight.compress.gates.widths import Widths


class Plateau(SimpleNamespace):
    """Groups of eight widths; every plan uses nine tenths of its limit, and each sum rounds upwards a little more."""

    def __init__(self) -> None:
        super().__init__(allowed=[np.arange(1, 9)] * 3, choice=[4, 4, 4], limits=np.array([1.0]), sums=0)

    @property
    def tightest(self) -> float:
        return 0.9 + 1e-15 * self.sums

    def set(self, group: int, choice: int) -> None:
        self.sums += 1
        assert self.sums < 1000, "the search goes round in circles"
        self.choice[group] = choice

    def set_all(self, choices: list[int]) -> None:
        self.choice = list(choices)

    def trial(self, _group: int, choices: list[int]) -> Any:
        return np.full((1, len(choices)), self.tightest)

    def within(self, used: Any) -> Any:
        return (used <= self.limits[:, None]).all(axis=0)


def test_plans_that_differ_by_rounding_alone_are_not_exchanged() -> None:
    plateau = Plateau()
    exchange_steps(cast(Widths, plateau))
    assert plateau.choice == [4, 4, 4]
