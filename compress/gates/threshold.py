"""One threshold over all scores, and the search for a plan that uses its budget up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .widths import Widths

SLACK = 0.01
"""A plan uses its tightest budget up to this share, where the widths allowed make that possible."""

GAIN = 1e-9
"""Relative: plans whose use differs by less are equal. Layers' times have plateaus, and sums over them round."""

MOST_EXCHANGED = 4
"""Steps that a group may lose to others when the search for a nearer plan goes on."""


def removal_order(widths: Widths, scores: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Group numbers, in the order in which steps of the groups go: the step with the lowest mean score first."""
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
    """Take as few steps of ``order`` as hold every limit, then give back what still fits."""
    most = np.array([len(kept) - 1 for kept in widths.allowed])
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        widths.set_all(most - np.bincount(order[:middle], minlength=len(most)))
        low, high = (low, middle) if widths.fits() else (middle + 1, high)
    widths.set_all(most - np.bincount(order[:high], minlength=len(most)))
    _fill(widths, order[:high])


def _fill(widths: Widths, removed: NDArray[np.int64]) -> None:
    """Give back removed steps, the strongest first, while the limits hold."""
    full: set[int] = set()
    for group in removed[::-1].tolist():
        choice = widths.choice[group]
        # What did not fit once fits no more: others only grow meanwhile.
        if group in full or choice == len(widths.allowed[group]) - 1:
            continue
        if widths.within(widths.trial(group, [choice + 1]))[0]:
            widths.set(group, choice + 1)
        else:
            full.add(group)


def use_up(widths: Widths) -> None:
    """While the plan is more than ``SLACK`` below its limits: less of one group, more of others, best fit first."""
    while widths.tightest < 1 - SLACK:
        before, best, found = list(widths.choice), widths.tightest, None
        for taken, choice in enumerate(before):
            for count in range(1, min(MOST_EXCHANGED, choice) + 1):
                widths.set(taken, choice - count)
                _fit(widths, without=taken)
                if widths.tightest > best * (1 + GAIN):
                    best, found = widths.tightest, list(widths.choice)
                widths.set_all(before)
        if found is None:
            return
        widths.set_all(found)


def _fit(widths: Widths, *, without: int) -> None:
    """Give steps back to other groups, each time the one that fills the limits best, until none fits."""
    full: set[int] = set()
    while True:
        best, found = widths.tightest, None
        for group, choice in enumerate(widths.choice):
            if group == without or group in full or choice == len(widths.allowed[group]) - 1:
                continue
            used = widths.trial(group, [choice + 1])
            share = float((used[:, 0] / widths.limits).max())
            if not widths.within(used)[0]:
                full.add(group)
            elif share > best:
                best, found = share, group
        if found is None:
            return
        widths.set(found, widths.choice[found] + 1)
