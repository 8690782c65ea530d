"""Ranked gates + a budget -> an exact plan. Learning proposes, selection decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PruningError
from ..surgery import PrunePlan
from .cost import CostModel

SLACK = 0.01
"""A plan is at most this share below its budget, where the widths allowed make that possible."""

MOST_EXCHANGED = 4
"""Blocks that a group may lose to others when the search for a nearer plan goes on."""


@dataclass(frozen=True)
class Selection:
    """A plan, its MACs, and the budget it was made for (MACs)."""

    plan: PrunePlan
    macs: int
    budget: float

    @property
    def gap(self) -> float:
        """Share of the budget that the plan leaves unused."""
        return 1 - self.macs / self.budget


@dataclass(frozen=True)
class _Block:
    """Channels of one group that go together; ``order`` counts from the group's weakest block."""

    group: int
    order: int
    score: float
    size: int


class _Widths:
    """The state of a search: how many blocks of each group are gone, and what is left costs."""

    def __init__(self, cost: CostModel, scores: Mapping[str, Tensor], align: int) -> None:
        self.cost = cost
        self.ranked = [torch.argsort(scores[name].double(), stable=True) for name in cost.names]
        self.blocks = [self._split(g, scores[name], align) for g, name in enumerate(cost.names)]
        self.gone = [0] * len(self.blocks)
        self.starts = torch.tensor([0, *cost.widths]).cumsum(0).tolist()
        self.values = torch.ones(self.starts[-1], dtype=torch.float64)

    def _split(self, group: int, scores: Tensor, align: int) -> list[_Block]:
        """Blocks that may go, weakest first: what is left is a multiple of ``align`` if the group is that large."""
        width = len(scores)
        step = align if width >= 2 * align else 1
        sizes = [width % step] if width % step else []
        sizes += [step] * ((width - step) // step if not sizes else (width - sizes[0] - step) // step)
        ordered, start, blocks = scores.double()[self.ranked[group]], 0, []
        for order, size in enumerate(sizes):
            blocks.append(_Block(group, order, float(ordered[start : start + size].mean()), size))
            start += size
        return blocks

    def set(self, group: int, gone: int) -> None:
        """Remove exactly the ``gone`` weakest blocks of a group."""
        removed = sum(block.size for block in self.blocks[group][:gone])
        values = self.values[self.starts[group] : self.starts[group + 1]]
        values.fill_(1)
        values[self.ranked[group][:removed]] = 0
        self.gone[group] = gone

    def restore(self, gone: Sequence[int]) -> None:
        """Go back to an earlier state of ``gone``."""
        for group, count in enumerate(gone):
            if count != self.gone[group]:
                self.set(group, count)

    def macs(self) -> float:
        return float(self.cost.of_values(self.values))

    def plan(self) -> PrunePlan:
        kept = {}
        for group, name in enumerate(self.cost.names):
            values = self.values[self.starts[group] : self.starts[group + 1]]
            kept[name] = tuple(values.nonzero().flatten().tolist())
        return PrunePlan(kept, dict(zip(self.cost.names, self.cost.widths, strict=True)))


def budget_macs(kept: float, total: int) -> float:
    """A budget in MACs: ``kept`` is a ratio of ``total`` below 1, or the number itself."""
    return kept * total if kept < 1 else kept


def smallest_macs(cost: CostModel, align: int = 1) -> int:
    """MACs of the smallest plan: every group at its smallest allowed width."""
    scores = {name: torch.zeros(width) for name, width in zip(cost.names, cost.widths, strict=True)}
    widths = _Widths(cost, scores, align)
    for group, blocks in enumerate(widths.blocks):
        widths.set(group, len(blocks))
    return round(widths.macs())


def check_budget(cost: CostModel, budget: float, align: int = 1) -> None:
    """Refuse a budget (MACs) that no plan can meet.

    Raises:
        PruningError: nothing can shrink or would, or the budget is out of reach; the message names the smallest.
    """
    if not cost.names:
        raise PruningError("no channel group of this model can shrink: see the frozen groups and their reasons")
    if budget >= cost.total:
        raise PruningError(
            f"the budget of {budget / 1e6:.3f} M MACs is not below the model's {cost.total / 1e6:.3f} M: "
            "nothing would shrink; lower budget.macs"
        )
    smallest = smallest_macs(cost, align)
    if smallest > budget:
        finer = "" if align == 1 else ", or lower budget.align"
        raise PruningError(
            f"the budget of {budget / 1e6:.3f} M MACs ({budget / cost.total:.1%} of the model) cannot be reached: "
            f"the smallest plan has {smallest / 1e6:.3f} M ({smallest / cost.total:.1%}); raise budget.macs to at "
            f"least {smallest / cost.total + 5e-4:.3f}{finer}"
        )


def select(cost: CostModel, scores: Mapping[str, Tensor], *, budget: float, align: int = 1) -> Selection:
    """Keep the channels with the highest ``scores`` such that the MACs meet ``budget`` from below.

    Deterministic for equal scores. Never above the budget, within 1 % of it where the allowed widths make that
    possible, no group empty, widths in multiples of ``align`` where a group has at least twice as many channels.

    Args:
        scores: (channels,) of every group of ``cost``; comparable across groups.
        budget: MACs (see ``budget_macs``).

    Raises:
        PruningError: nothing can shrink, or the budget is out of reach.
    """
    check_budget(cost, budget, align)
    widths = _Widths(cost, scores, align)
    order = sorted((b for blocks in widths.blocks for b in blocks), key=lambda b: (b.score, b.group, b.order))
    for block in order:
        # Mean scores may not rise within a group by rounding: always take the group's weakest left.
        widths.set(block.group, widths.gone[block.group] + 1)
        if widths.macs() <= budget:
            break
    _fill(widths, order, budget)
    _exchange(widths, budget)
    return Selection(widths.plan(), round(widths.macs()), budget)


def _fill(widths: _Widths, order: list[_Block], budget: float) -> None:
    """Give back removed blocks, the strongest first, while the budget holds."""
    for block in reversed(order):
        gone = widths.gone[block.group]
        if gone > block.order:
            widths.set(block.group, gone - 1)
            if widths.macs() > budget:
                widths.set(block.group, gone)


def _exchange(widths: _Widths, budget: float) -> None:
    """While the plan is more than ``SLACK`` below the budget: less of one group, more of others, best fit first."""
    while widths.macs() < (1 - SLACK) * budget:
        before, best, found = list(widths.gone), widths.macs(), None
        for taken, blocks in enumerate(widths.blocks):
            for count in range(1, min(MOST_EXCHANGED, len(blocks) - before[taken]) + 1):
                widths.set(taken, before[taken] + count)
                _fit(widths, budget, without=taken)
                if widths.macs() > best:
                    best, found = widths.macs(), list(widths.gone)
                widths.restore(before)
        if found is None:
            return
        widths.restore(found)


def _fit(widths: _Widths, budget: float, *, without: int) -> None:
    """Give blocks back to other groups, each time the one that fills the budget best, until none fits."""
    while True:
        best, found = widths.macs(), None
        for group, gone in enumerate(list(widths.gone)):
            if group == without or gone == 0:
                continue
            widths.set(group, gone - 1)
            if best < widths.macs() <= budget:
                best, found = widths.macs(), group
            widths.set(group, gone)
        if found is None:
            return
        widths.set(found, widths.gone[found] - 1)
