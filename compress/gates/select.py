"""From budgets as people write them to limits on a model's resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from ..config import BudgetConfig
from ..errors import ConfigError, PruningError
from ..surgery import FrozenGroup, PrunePlan
from .cost import CostModel
from .prices import cut_by_prices
from .threshold import cut_by_threshold, removal_order, use_up
from .widths import Align, Widths


def read_budget(**limits: object) -> BudgetConfig:
    """The budget of ``macs=0.5``, ``params="1.2M"``, ``size="2MB"``, ``latency="3ms"``; None limits nothing.

    Raises:
        ConfigError: nothing is limited, or a limit is none; one sentence for each.
    """
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if not given:
        raise ConfigError(f"no budget is given: give at least one of {', '.join(BudgetConfig.limited())}")
    try:
        return BudgetConfig(**given)
    except ValidationError as error:
        reasons = [detail["msg"].removeprefix("Value error, ") for detail in error.errors()]
        raise ConfigError("; ".join(f"budget: {reason}" for reason in reasons)) from error


def counted_limits(budget: BudgetConfig, cost: CostModel) -> dict[str, float]:
    """The limits of ``budget`` in whole MACs, parameters and bytes; latency is measured, not counted."""
    totals = cost.totals
    return {
        name: float(amount.limit(round(totals[name]))) for name, amount in budget.limits.items() if name != "latency"
    }


Budget = float | Mapping[str, float]
"""A number of MACs, or the most of every limited resource: ``macs``, ``params``, ``size`` (bytes), ``latency`` (ms)."""


@dataclass(frozen=True)
class Selection:
    """A plan, what it uses of each limited resource, and the limits it was made for."""

    plan: PrunePlan
    used: Mapping[str, float]
    budget: Mapping[str, float]

    @property
    def macs(self) -> int:
        """MACs of the slim model."""
        return round(self.used["macs"])

    @property
    def gap(self) -> float:
        """Share that the plan leaves unused of the budget that is used most."""
        return 1 - max(self.used[name] / limit for name, limit in self.budget.items())


def as_limits(budget: Budget) -> dict[str, float]:
    """The limits by resource; a bare number is one of MACs."""
    return dict(budget) if isinstance(budget, Mapping) else {"macs": float(budget)}


def smallest_amounts(cost: CostModel, align: Align = 1) -> dict[str, float]:
    """Every resource of the smallest plan: all groups at their smallest allowed width."""
    scores = {name: torch.zeros(width) for name, width in zip(cost.names, cost.widths, strict=True)}
    widths = Widths(cost, scores, {}, align)
    widths.set_all([0] * len(cost.names))
    return cost.amounts_at(widths.inputs, widths.outputs)


def smallest_macs(cost: CostModel, align: Align = 1) -> int:
    """MACs of the smallest plan: every group at its smallest allowed width."""
    return round(smallest_amounts(cost, align)["macs"])


_UNITS = {"macs": (1e6, "M MACs"), "params": (1e6, "M parameters"), "size": (1e6, "MB"), "latency": (1.0, "ms")}


def as_amount(resource: str, value: float) -> str:
    """An amount of a resource with its unit: ``12.300 M MACs``."""
    scale, unit = _UNITS[resource]
    return f"{value / scale:.3f} {unit}"


def check_budget(cost: CostModel, budget: Budget, align: Align = 1, *, frozen: Sequence[FrozenGroup] = ()) -> None:
    """Refuse a budget that no plan can meet.

    Args:
        frozen: groups that cannot shrink, to be named.

    Raises:
        PruningError: nothing can shrink or would, or a budget is out of reach; the message names the smallest, and
            what is frozen.
    """
    if not cost.names:
        raise PruningError(f"no channel group of this model can shrink{_frozen_words(frozen)}")
    limits, totals = as_limits(budget), cost.totals
    if all(limit >= totals[name] for name, limit in limits.items()):
        listed = " and ".join(
            f"{as_amount(name, limit)} is not below the model's {as_amount(name, totals[name])}"
            for name, limit in limits.items()
        )
        names = " or ".join(f"budget.{name}" for name in limits)
        raise PruningError(f"the budget of {listed}: nothing would shrink; lower {names}")
    least = smallest_amounts(cost, align)
    for name, limit in limits.items():
        if least[name] > limit:
            finer = "" if align == 1 else ", or lower budget.align"
            total = totals[name]
            raise PruningError(
                f"the budget of {as_amount(name, limit)} ({limit / total:.1%} of the model) cannot be reached: the "
                f"smallest plan has {as_amount(name, least[name])} ({least[name] / total:.1%}); raise budget.{name} "
                f"to at least {least[name] / total + 5e-4:.3f}{finer}{_frozen_words(frozen)}"
            )


_NAMED = 3


def _frozen_words(frozen: Sequence[FrozenGroup]) -> str:
    listed = [f"'{group.name}' ({group.reason})" for group in frozen[:_NAMED]]
    more = f" and {len(frozen) - _NAMED} more" if len(frozen) > _NAMED else ""
    return f"; frozen groups: {', '.join(listed)}{more}" if frozen else ""


def select(
    cost: CostModel,
    scores: Mapping[str, Tensor],
    *,
    budget: Budget,
    align: Align = 1,
    rank_weight: float = 1.0,
) -> Selection:
    """Keep the channels with the highest ``scores`` such that every budget is met from below.

    Deterministic for equal scores. Never above a budget; within 1 % of the one that is used most, where the allowed
    widths make that possible; no group empty; widths in multiples of ``align`` (see ``allowed_widths``).

    A score is what a channel is worth per MAC: gates learn under a price on MACs, and one closes where it is worth
    less. So a budget of MACs alone, and any others that do not bind, is met by one threshold over all scores. Where
    others bind, the plan maximises the sum of rank x MACs over kept channels (see ``prices``).

    Args:
        scores: (channels,) of every group of ``cost``; comparable across groups.
        budget: MACs, or the most of each resource of ``cost``.
        align: a multiple for all groups, or one for each.
        rank_weight: 0..1, how much of a channel's worth its rank decides where several budgets bind; the rest is its
            MACs alone, so that at 0 the budgets decide every width and ranks decide within groups.

    Raises:
        PruningError: nothing can shrink, or a budget is out of reach.
    """
    limits = as_limits(budget)
    check_budget(cost, limits, align)
    widths = Widths(cost, scores, limits, align)
    order = removal_order(widths, scores)
    alone = Widths(cost, scores, {"macs": limits["macs"]}, align) if "macs" in limits else None
    if alone is not None and limits["macs"] < cost.totals["macs"]:
        cut_by_threshold(alone, order)
        use_up(alone)
        widths.set_all(alone.choice)
    if alone is None or not widths.fits():
        cut_by_prices(widths, scores, order, rank_weight)
        use_up(widths)
    plan = widths.plan()
    return Selection(plan, cost.amounts(plan), limits)
