"""Select channels by one threshold over all scores, then exchange steps between groups to use up the budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .widths import Widths

MAX_SLACK = 0.01
"""Unused share of the tightest limit at which the exchange stops."""

MIN_GAIN = 1e-9
"""Relative gain of an exchange; less counts as none. Layers' times have plateaus, and sums over them round."""

MOST_EXCHANGED = 4
"""Most steps that one group loses to others in an exchange."""


def removal_order(widths: Widths, scores: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Order in which the groups are narrowed by a step, as group numbers: steps of the lowest mean score first."""
    groups, steps, means = [], [], []
    for group, name in enumerate(widths.cost.names):
        ordered = scores[name].double().numpy()[widths.ranked[group]]
        kept = widths.allowed[group]
        for step, (narrow, wide) in enumerate(zip(kept[-2::-1], kept[:0:-1], strict=True)):
            groups.append(group)
            steps.append(step)
            means.append(float(ordered[narrow:wide].mean()))
    order = np.lexsort((steps, groups, means))
    return np.array(groups, dtype=np.int64)[order]


def cut_by_threshold(widths: Widths, order: NDArray[np.int64]) -> None:
    """Remove the fewest steps of ``order`` that meet every limit, then restore those that still fit."""
    most = np.array([len(kept) - 1 for kept in widths.allowed])
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        widths.set_all(most - np.bincount(order[:middle], minlength=len(most)))
        low, high = (low, middle) if widths.fits() else (middle + 1, high)
    widths.set_all(most - np.bincount(order[:high], minlength=len(most)))
    _restore_removed(widths, order[:high])


def _restore_removed(widths: Widths, removed: NDArray[np.int64]) -> None:
    """Restore removed steps, the highest scores first, while the limits are met."""
    full: set[int] = set()
    for group in removed[::-1].tolist():
        choice = widths.choice[group]
        # A step that did not fit will not fit later: the other groups only grow.
        if group in full or choice == len(widths.allowed[group]) - 1:
            continue
        if widths.within(widths.trial(group, [choice + 1]))[0]:
            widths.set(group, choice + 1)
        else:
            full.add(group)


def exchange_steps(widths: Widths) -> None:
    """Narrow one group and widen others, best gain first, while the plan is over ``MAX_SLACK`` below its limits."""
    while widths.tightest < 1 - MAX_SLACK:
        before, best, best_choice = list(widths.choice), widths.tightest, None
        for taken, choice in enumerate(before):
            for count in range(1, min(MOST_EXCHANGED, choice) + 1):
                widths.set(taken, choice - count)
                _widen_others(widths, without=taken)
                if widths.tightest > best * (1 + MIN_GAIN):
                    best, best_choice = widths.tightest, list(widths.choice)
                widths.set_all(before)
        if best_choice is None:
            return
        widths.set_all(best_choice)


def _widen_others(widths: Widths, *, without: int) -> None:
    """Widen groups other than ``without`` by steps, each time the one that fills the limits best, until none fits."""
    full: set[int] = set()
    while True:
        best, best_group = widths.tightest, None
        for group, choice in enumerate(widths.choice):
            if group == without or group in full or choice == len(widths.allowed[group]) - 1:
                continue
            used = widths.trial(group, [choice + 1])
            share = float((used[:, 0] / widths.limits).max())
            if not widths.within(used)[0]:
                full.add(group)
            elif share > best:
                best, best_group = share, group
        if best_group is None:
            return
        widths.set(best_group, widths.choice[best_group] + 1)
