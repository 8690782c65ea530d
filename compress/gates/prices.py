"""Select channels under several budgets: Lagrangian relaxation with a price (multiplier) per resource."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .cost import CostModel, Floats
from .threshold import cut_by_threshold
from .widths import Widths

ROUNDS = 40
"""Updates of the prices."""

SWEEPS = 3
"""Most passes over all groups per update of the prices: one group's width changes the cost of the others."""

COARSE_CHOICES = 16
"""Widths of a group that are tried first, before all of them are."""

FINE_ROUNDS = 3
"""Updates of the prices among all widths."""

MOST_NARROWED = 2
"""Most choices by which a group is narrowed in an exchange."""

REPAIRABLE = 1.05
"""Plans that use at most this share of a limit are repaired; others are too far above it."""

_EPSILON = 1e-12


def channel_values(cost: CostModel, scores: Mapping[str, Tensor], rank_weight: float = 1.0) -> list[Floats]:
    """(channels,) value of each channel, by group: rank of its score among all channels x its MACs.

    With a ``rank_weight`` w below 1, (1 - w + w x rank) x MACs: at 0 the limits decide all widths, and ranks decide
    within groups only.

    Ranks (0..1, the mean for equal scores) make the sum invariant to any increasing function of the scores: logits and
    norms, whatever their scale and sign. MACs are those that removing only this channel saves in the unpruned model.
    """
    all_scores = np.concatenate([scores[name].double().numpy() for name in cost.names])
    _, inverse, counts = np.unique(all_scores, return_inverse=True, return_counts=True)
    ranks = ((np.cumsum(counts) - 0.5 * counts) / len(all_scores))[inverse.reshape(-1)]
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


class _LagrangianSearch:
    """State of the search: widths, the value of every choice (``worth[group][choice]``), and the best plan so far.

    ``coarse``: ``COARSE_CHOICES`` choices of each group; else all within one coarse step of the present one.
    """

    def __init__(self, widths: Widths, scores: Mapping[str, Tensor], rank_weight: float) -> None:
        self.widths = widths
        self.coarse = True
        self.worth: list[Floats] = []
        values = channel_values(widths.cost, scores, rank_weight)
        for value, best, kept in zip(values, widths.ranked, widths.allowed, strict=True):
            self.worth.append(np.cumsum(value[best])[kept - 1])
        self.best, self.best_worth = list(widths.choice), -1.0

    def choices(self, group: int) -> NDArray[np.int64]:
        """Choices to consider, ascending, the present one included."""
        count, now = len(self.worth[group]), self.widths.choice[group]
        stride = -(-count // COARSE_CHOICES)
        if self.coarse:
            return np.unique(np.append(np.arange(count - 1, -1, -stride), [0, now]))
        return np.arange(max(0, now - stride), min(count, now + stride + 1))

    @property
    def has_more(self) -> bool:
        """Whether some group has choices that are not coarse ones."""
        return any(len(worth) > COARSE_CHOICES for worth in self.worth)

    def total(self) -> float:
        """Value of the present plan."""
        return sum(float(worth[choice]) for worth, choice in zip(self.worth, self.widths.choice, strict=True))

    def keep(self) -> None:
        """Keep the present plan if it is within every limit and has a higher value than the best."""
        if self.widths.fits() and self.total() > self.best_worth:
            self.best, self.best_worth = list(self.widths.choice), self.total()

    def maximise(self, prices: Floats) -> None:
        """Set every group to its width of highest value less price, given the others, until none changes."""
        widths = self.widths
        for _ in range(SWEEPS):
            before = list(widths.choice)
            for group, worth in enumerate(self.worth):
                choices = self.choices(group)
                net = worth[choices] - prices @ (widths.trial(group, choices) / widths.limits[:, None])
                widths.set(group, int(choices[len(choices) - 1 - int(np.argmax(net[::-1]))]))  # of equals the widest
            if widths.choice == before:
                return

    def repair(self) -> None:
        """Narrow groups until every limit is met, first those that lose least value per excess removed."""
        widths = self.widths
        while not widths.fits():
            excess = np.maximum(widths.used / widths.limits - 1, 0)
            moves = []
            for group, worth in enumerate(self.worth):
                now = widths.choice[group]
                narrower = self.choices(group)
                narrower = narrower[narrower < now]
                if len(narrower) == 0:
                    continue
                remaining = np.maximum(widths.trial(group, narrower) / widths.limits[:, None] - 1, 0)
                removed = (excess[:, None] - remaining).sum(0)
                lost = worth[now] - worth[narrower]
                rates = np.where(removed > _EPSILON, lost / np.maximum(removed, _EPSILON), np.inf)
                k = len(rates) - 1 - int(np.argmin(rates[::-1]))
                if np.isfinite(rates[k]):
                    moves.append((float(rates[k]), group, int(narrower[k])))
            if not moves:
                widths.set_all([0] * len(widths.choice))
            for _, group, choice in sorted(moves):
                if widths.fits():
                    return
                widths.set(group, choice)

    def fill(self, prices: Floats) -> None:
        """Widen groups while every limit is met, first those that gain most value per price."""
        widths = self.widths
        widened = True
        while widened:
            moves = []
            for group in range(len(self.worth)):
                move = self._best_widening(group, prices)
                if move is not None:
                    moves.append((-move[0], group))
            widened = False
            for _, group in sorted(moves):
                move = self._best_widening(group, prices)  # the groups before it may have used the limits up
                if move is not None:
                    widths.set(group, move[1])
                    widened = True

    def _best_widening(self, group: int, prices: Floats) -> tuple[float, int] | None:
        """Highest value per price of a wider choice that fits, and that choice; None if none fits."""
        widths, worth, now = self.widths, self.worth[group], self.widths.choice[group]
        wider = self.choices(group)
        wider = wider[wider > now]
        if len(wider) == 0:
            return None
        used = widths.trial(group, wider)
        fits = widths.within(used)
        if not fits.any():
            return None
        paid = np.maximum(prices @ ((used - widths.used[:, None]) / widths.limits[:, None]), _EPSILON)
        rates = np.where(fits, (worth[wider] - worth[now]) / paid, -np.inf)
        # Without strides, single channels are too many to be added one by one.
        k = int(np.argmax(rates)) if self.coarse else int(np.flatnonzero(fits)[-1])
        return float(rates[k]), int(wider[k])

    def exchange(self, prices: Floats) -> None:
        """Local search: narrow one group by a step or two and ``fill``, as long as the plan's value rises."""
        widths = self.widths
        for _ in range(SWEEPS):
            before = self.total()
            for group in range(len(self.worth)):
                start, worth = list(widths.choice), self.total()
                narrower = [choice for choice in self.choices(group).tolist() if choice < start[group]]
                for choice in narrower[-MOST_NARROWED:]:
                    widths.set(group, choice)
                    self.fill(prices)
                    if self.total() > worth * (1 + _EPSILON):
                        start, worth = list(widths.choice), self.total()
                    widths.set_all(start)
            if self.total() <= before * (1 + _EPSILON):
                return

    def update_prices(self, prices: Floats, rounds: int, speed: float) -> Floats:
        """Dual ascent by multiplicative updates, keeping the best plan on the way. Returns the last prices."""
        widths = self.widths
        for number in range(rounds):
            self.maximise(prices)
            relaxed, shares = list(widths.choice), widths.used / widths.limits
            if shares.max() <= REPAIRABLE:
                self.repair()
                self.fill(prices)
                self.keep()
                widths.set_all(relaxed)
            prices = np.clip(prices * np.exp(speed * (1.1 - number / rounds) * (shares - 1)), 1e-6, 1e6)
        return prices


def cut_by_prices(
    widths: Widths, scores: Mapping[str, Tensor], order: NDArray[np.int64], rank_weight: float = 1.0
) -> None:
    """Maximise the total value of the kept channels under all limits: Lagrangian prices, then repair and fill.

    Prices rise where a limit is exceeded and fall where it is not (multiplicative updates), and every group takes the
    width of highest value less price: the knapsack of HALP (Shen et al., 2022) without its independence of layers,
    because a layer's cost depends on the groups of its inputs and of its outputs.

    Starts from the plan of one threshold over all scores that meets every limit; the result is no worse.
    """
    cut_by_threshold(widths, order)
    search = _LagrangianSearch(widths, scores, rank_weight)
    search.keep()
    prices = search.update_prices(np.full(len(widths.limits), 1 / len(widths.limits)), ROUNDS, 4.0)
    if search.has_more:
        widths.set_all(search.best)
        search.coarse = False
        search.update_prices(prices, FINE_ROUNDS, 1.0)
    widths.set_all(search.best)
    if search.has_more:
        search.fill(prices)
    else:  # few enough choices to try every exchange
        search.exchange(prices)
