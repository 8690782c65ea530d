"""Several budgets at once: a price for every resource, and every group as wide as its channels earn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .cost import CostModel, Floats
from .threshold import cut_by_threshold
from .widths import Widths

ROUNDS = 40
"""Adjustments of the prices."""

SWEEPS = 3
"""Times that every group answers to a new set of prices, at most: one's answer changes what the others cost."""

COARSE = 16
"""Choices of a group that prices are found with, before all are looked at."""

FINE_ROUNDS = 3
"""Adjustments of the prices among all choices."""

_NOTHING = 1e-12

NEAR = 1.05
"""Answers that use at most this much of their limits are worth repairing."""


def values_of(cost: CostModel, scores: Mapping[str, Tensor], rank_weight: float = 1.0) -> list[Floats]:
    """(channels,) what each channel of every group is worth: rank of its score among all channels x its MACs.

    With a ``rank_weight`` w below 1, (1 - w + w x rank) x MACs: at 0 the shape is what the limits make of it, and ranks
    decide within groups only.

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
        values.append((1 - rank_weight + rank_weight * ranks[start : start + width]) * macs)
        start += width
    total = sum(float(value.sum()) for value in values)
    return [value / total for value in values]


class _Market:
    """Widths, what every choice of a group is worth (``worth[group][choice]``), and the best plan so far.

    ``coarse`` looks at ``COARSE`` choices of each group; else at all within one coarse step of the present one.
    """

    def __init__(self, widths: Widths, scores: Mapping[str, Tensor], rank_weight: float) -> None:
        self.widths = widths
        self.coarse = True
        self.worth: list[Floats] = []
        values = values_of(widths.cost, scores, rank_weight)
        for value, best, kept in zip(values, widths.ranked, widths.allowed, strict=True):
            self.worth.append(np.cumsum(value[best])[kept - 1])
        self.best, self.best_worth = list(widths.choice), -1.0

    def choices(self, group: int) -> NDArray[np.int64]:
        """Ascending, with the present choice among them."""
        count, now = len(self.worth[group]), self.widths.choice[group]
        stride = -(-count // COARSE)
        if self.coarse:
            return np.unique(np.append(np.arange(count - 1, -1, -stride), [0, now]))
        return np.arange(max(0, now - stride), min(count, now + stride + 1))

    @property
    def has_more(self) -> bool:
        """Whether the coarse choices leave any out."""
        return any(len(worth) > COARSE for worth in self.worth)

    def total(self) -> float:
        """What the present plan is worth."""
        return sum(float(worth[choice]) for worth, choice in zip(self.worth, self.widths.choice, strict=True))

    def keep(self) -> None:
        """Remember the present plan if it holds every limit and is worth more than the best."""
        if self.widths.fits() and self.total() > self.best_worth:
            self.best, self.best_worth = list(self.widths.choice), self.total()

    def answer(self, prices: Floats) -> None:
        """Every group takes the width that earns most at these prices, given the others', until none changes."""
        widths = self.widths
        for _ in range(SWEEPS):
            before = list(widths.choice)
            for group, worth in enumerate(self.worth):
                choices = self.choices(group)
                earned = worth[choices] - prices @ (widths.trial(group, choices) / widths.limits[:, None])
                widths.set(group, int(choices[len(choices) - 1 - int(np.argmax(earned[::-1]))]))  # of equals the widest
            if widths.choice == before:
                return

    def repair(self) -> None:
        """Narrow groups, the one first that loses least worth per excess that goes, until every limit holds."""
        widths = self.widths
        while not widths.fits():
            over = np.maximum(widths.used / widths.limits - 1, 0)
            offers = []
            for group, worth in enumerate(self.worth):
                now = widths.choice[group]
                narrower = self.choices(group)
                narrower = narrower[narrower < now]
                if len(narrower) == 0:
                    continue
                left = np.maximum(widths.trial(group, narrower) / widths.limits[:, None] - 1, 0)
                gone = (over[:, None] - left).sum(0)
                rates = np.where(gone > _NOTHING, (worth[now] - worth[narrower]) / np.maximum(gone, _NOTHING), np.inf)
                k = len(rates) - 1 - int(np.argmin(rates[::-1]))
                if np.isfinite(rates[k]):
                    offers.append((float(rates[k]), group, int(narrower[k])))
            if not offers:
                widths.set_all([0] * len(widths.choice))
            for _, group, choice in sorted(offers):
                if widths.fits():
                    return
                widths.set(group, choice)

    def fill(self, prices: Floats) -> None:
        """Widen groups, the one first that brings most worth per price, while every limit holds."""
        widths = self.widths
        widened = True
        while widened:
            offers = []
            for group in range(len(self.worth)):
                offer = self._widening(group, prices)
                if offer is not None:
                    offers.append((-offer[0], group))
            widened = False
            for _, group in sorted(offers):
                offer = self._widening(group, prices)  # what others took is gone
                if offer is not None:
                    widths.set(group, offer[1])
                    widened = True

    def _widening(self, group: int, prices: Floats) -> tuple[float, int] | None:
        """The wider choice that fits and brings most worth per price, and how much; None if none fits."""
        widths, worth, now = self.widths, self.worth[group], self.widths.choice[group]
        wider = self.choices(group)
        wider = wider[wider > now]
        if len(wider) == 0:
            return None
        used = widths.trial(group, wider)
        fits = widths.within(used)
        if not fits.any():
            return None
        paid = np.maximum(prices @ ((used - widths.used[:, None]) / widths.limits[:, None]), _NOTHING)
        rates = np.where(fits, (worth[wider] - worth[now]) / paid, -np.inf)
        # Without strides, single channels are too many to go one by one.
        k = int(np.argmax(rates)) if self.coarse else int(np.flatnonzero(fits)[-1])
        return float(rates[k]), int(wider[k])

    def exchange(self, prices: Floats) -> None:
        """Narrow one group and widen others as far as that sets free, while the plan gains by it."""
        widths, improved = self.widths, True
        while improved:
            improved = False
            for group in range(len(self.worth)):
                start, worth = list(widths.choice), self.total()
                for choice in self.choices(group)[::-1].tolist():
                    if choice >= start[group]:
                        continue
                    widths.set_all(start)
                    widths.set(group, choice)
                    self.fill(prices)
                    if self.total() > worth * (1 + _NOTHING):
                        start, worth, improved = list(widths.choice), self.total(), True
                        break
                widths.set_all(start)

    def trade(self, prices: Floats, rounds: int, speed: float) -> Floats:
        """Let prices find what the limits allow; the best plan on the way is kept. Returns the last prices."""
        widths = self.widths
        for turn in range(rounds):
            self.answer(prices)
            answered, shares = list(widths.choice), widths.used / widths.limits
            if shares.max() <= NEAR:
                self.repair()
                self.fill(prices)
                self.keep()
                widths.set_all(answered)
            prices = np.clip(prices * np.exp(speed * (1.1 - turn / rounds) * (shares - 1)), 1e-6, 1e6)
        return prices


def cut_by_prices(
    widths: Widths, scores: Mapping[str, Tensor], order: NDArray[np.int64], rank_weight: float = 1.0
) -> None:
    """Maximise what the kept channels are worth under all limits: Lagrangian prices, then repair and fill.

    The prices rise where a limit is exceeded and fall where it is not (multiplicative updates), and every group
    answers with the width that earns most: the knapsack of HALP (Shen et al., 2022) without its independence of
    layers, for a layer's cost depends on the group before and the group after it.

    Starts from one threshold over all scores that holds every limit, which is also the plan to beat.
    """
    cut_by_threshold(widths, order)
    market = _Market(widths, scores, rank_weight)
    market.keep()
    prices = market.trade(np.full(len(widths.limits), 1 / len(widths.limits)), ROUNDS, 4.0)
    if market.has_more:
        widths.set_all(market.best)
        market.coarse = False
        market.trade(prices, FINE_ROUNDS, 1.0)
    widths.set_all(market.best)
    market.fill(prices)
    market.keep()
    market.exchange(prices)
