"""Several budgets at once: a price for every resource, and every group as wide as its channels earn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .cost import CostModel, Floats
from .threshold import cut_by_threshold
from .widths import Widths

ROUNDS = 60
"""Adjustments of the prices."""

SWEEPS = 4
"""Times that every group answers to a new set of prices, at most: one's answer changes what the others cost."""

NEAR = 1.05
"""Answers that use at most this much of their limits are worth repairing."""


def values_of(cost: CostModel, scores: Mapping[str, Tensor]) -> list[Floats]:
    """(channels,) what each channel of every group is worth: rank of its score among all channels x its MACs.

    Ranks (0..1, equal scores share theirs) make the sum the same for every rising function of the scores: logits and
    norms, whatever their scale and sign. MACs are those of the unpruned model that go with the channel alone.
    """
    every = np.concatenate([scores[name].double().numpy() for name in cost.names])
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    ranks = ((np.cumsum(counts) - 0.5 * counts) / len(every))[inverse.reshape(-1)]
    inputs, outputs = cost.full_width()
    unit = np.array([layer.unit for layer in cost.layers], dtype=np.float64)
    values, start = [], 0
    for touched, width in zip(cost.touched, cost.widths, strict=True):
        rows = touched.rows
        macs = (unit * outputs)[rows] @ touched.into + (unit * inputs)[rows] @ touched.out
        values.append(ranks[start : start + width] * macs)
        start += width
    total = sum(float(value.sum()) for value in values)
    return [value / total for value in values]


class _Market:
    """Widths, what every choice of a group is worth (``worth[group][choice]``), and the best plan so far."""

    def __init__(self, widths: Widths, scores: Mapping[str, Tensor]) -> None:
        self.widths = widths
        self.worth: list[Floats] = []
        for value, best, kept in zip(values_of(widths.cost, scores), widths.ranked, widths.allowed, strict=True):
            self.worth.append(np.cumsum(value[best])[kept - 1])
        self.best, self.best_worth = list(widths.choice), -1.0

    def total(self) -> float:
        return sum(float(worth[choice]) for worth, choice in zip(self.worth, self.widths.choice, strict=True))

    def keep(self) -> None:
        """Remember the present plan if it holds every limit and is worth more than the best."""
        if self.widths.fits and self.total() > self.best_worth:
            self.best, self.best_worth = list(self.widths.choice), self.total()

    def answer(self, prices: Floats) -> None:
        """Every group takes the width that earns most at these prices, given the others', until none changes."""
        widths = self.widths
        for _ in range(SWEEPS):
            changed = False
            for group, worth in enumerate(self.worth):
                used = widths.trial(group, np.arange(len(worth)))
                earned = worth - prices @ (used / widths.limits[:, None])
                choice = len(worth) - 1 - int(np.argmax(earned[::-1]))  # of equal ones the widest
                if choice != widths.choice[group]:
                    widths.set(group, choice)
                    changed = True
            if not changed:
                return

    def repair(self) -> None:
        """Narrow groups, each time where the least worth goes per excess that goes, until every limit holds."""
        widths = self.widths
        while not widths.fits:
            over = np.maximum(widths.used / widths.limits - 1, 0)
            best: tuple[float, int, int] | None = None
            for group, choice in enumerate(widths.choice):
                if choice == 0:
                    continue
                narrower = np.arange(choice)
                left = np.maximum(widths.trial(group, narrower) / widths.limits[:, None] - 1, 0)
                gone = (over[:, None] - left).sum(0)
                lost = self.worth[group][choice] - self.worth[group][:choice]
                rate = np.where(gone > 1e-12, lost / np.maximum(gone, 1e-12), np.inf)
                k = choice - 1 - int(np.argmin(rate[::-1]))
                if np.isfinite(rate[k]) and (best is None or rate[k] < best[0]):
                    best = (float(rate[k]), group, k)
            if best is None:
                widths.set_all([0] * len(widths.choice))
                return
            widths.set(best[1], best[2])

    def fill(self, prices: Floats) -> None:
        """Widen groups, each time where most worth comes per price, while every limit holds."""
        widths = self.widths
        open_ = {group for group, worth in enumerate(self.worth) if widths.choice[group] < len(worth) - 1}
        while True:
            best: tuple[float, int, int] | None = None
            for group in sorted(open_):
                choice, worth = widths.choice[group], self.worth[group]
                wider = np.arange(choice + 1, len(worth))
                used = widths.trial(group, wider)
                within = widths.within(used)
                if not within.any():
                    open_.discard(group)
                    continue
                paid = np.maximum(prices @ ((used - widths.used[:, None]) / widths.limits[:, None]), 1e-12)
                rate = np.where(within, (worth[wider] - worth[choice]) / paid, -np.inf)
                k = int(np.argmax(rate))
                if best is None or rate[k] > best[0]:
                    best = (float(rate[k]), group, int(wider[k]))
            if best is None:
                return
            widths.set(best[1], best[2])
            if best[2] == len(self.worth[best[1]]) - 1:
                open_.discard(best[1])


def cut_by_prices(widths: Widths, scores: Mapping[str, Tensor], order: NDArray[np.int64]) -> None:
    """Maximise what the kept channels are worth under all limits: Lagrangian prices, then repair and fill.

    The prices rise where a limit is exceeded and fall where it is not (multiplicative updates), and every group
    answers with the width that earns most: the knapsack of HALP (Shen et al., 2022) without its independence of
    layers, for a layer's cost depends on the group before and the group after it.

    Starts from one threshold over all scores that holds every limit, which is also the plan to beat.
    """
    cut_by_threshold(widths, order)
    market = _Market(widths, scores)
    market.keep()
    prices = np.full(len(widths.limits), 1 / len(widths.limits))
    for turn in range(ROUNDS):
        market.answer(prices)
        answered = list(widths.choice)
        shares = widths.used / widths.limits
        if shares.max() <= NEAR:
            market.repair()
            market.fill(prices)
            market.keep()
            widths.set_all(answered)
        speed = 4.0 * (1 - turn / ROUNDS) + 0.5
        prices = np.clip(prices * np.exp(speed * (shares - 1)), 1e-6, 1e6)
    widths.set_all(market.best)
