"""Select the channels to keep: from a budget and scores to a plan within every limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import ValidationError
from torch import Tensor

from ..config import BudgetConfig
from ..errors import ConfigError, PruningError
from ..surgery import FrozenGroup, PrunePlan
from .cost import CostModel
from .prices import cut_by_prices
from .threshold import cut_by_threshold, exchange_steps, removal_order
from .widths import Align, Widths


def read_budget(**limits: object) -> BudgetConfig:
    """Validate a budget such as ``macs=0.5``, ``params="1.2M"``, ``size="2MB"``, ``latency="3ms"``; None is no limit.

    Raises:
        ConfigError: no limit is given, or some are invalid; one sentence for each.
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
    """The limits of ``budget`` in MACs, parameters and bytes, without latency, which is measured instead."""
    totals = cost.totals
    return {
        name: float(amount.limit(round(totals[name]))) for name, amount in budget.limits.items() if name != "latency"
    }


def proxy_limits(budget: BudgetConfig, cost: CostModel) -> dict[str, float]:
    """``counted_limits``; a budget that limits latency alone counts as the same share of the MACs, if it is a share."""
    limits, latency = counted_limits(budget, cost), budget.limits.get("latency")
    return {"macs": latency.of(cost.total)} if not limits and latency is not None and latency.relative else limits


Budget = float | Mapping[str, float]
"""MACs, or a limit for each resource by name: ``macs``, ``params``, ``size`` (bytes), ``latency`` (ms)."""


_BISECTIONS = 7
"""Steps in which ``select_fast`` finds the time of its plan: to within 1 % of the original's."""


@dataclass(frozen=True)
class Selection:
    """A plan, its use of every resource, and the limits it was made for."""

    plan: PrunePlan
    used: Mapping[str, float]
    budget: Mapping[str, float]

    @property
    def macs(self) -> int:
        """MACs of the slim model."""
        return round(self.used["macs"])

    @property
    def gap(self) -> float:
        """Unused share of the limit that is used most."""
        return 1 - max(self.used[name] / limit for name, limit in self.budget.items())


def as_limits(budget: Budget) -> dict[str, float]:
    """The limits by resource; a bare number limits MACs."""
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
    """Raise for a budget that no plan can meet, or that the unpruned model meets.

    Args:
        frozen: groups that cannot shrink, for the message.

    Raises:
        PruningError: no group can shrink, the budget is not below the model, or a limit is out of reach; the message
            gives the smallest plan and the frozen groups.
    """
    if not cost.names:
        raise PruningError(f"no channel group of this model can shrink{_frozen_clause(frozen)}")
    limits, totals = as_limits(budget), cost.totals
    if all(limit >= totals[name] for name, limit in limits.items()):
        listed = " and ".join(
            f"{as_amount(name, limit)} is not below the model's {as_amount(name, totals[name])}"
            for name, limit in limits.items()
        )
        names = " or ".join(f"budget.{name}" for name in limits)
        raise PruningError(f"the budget of {listed}: nothing would shrink; lower {names}")
    smallest = smallest_amounts(cost, align)
    for name, limit in limits.items():
        if smallest[name] > limit:
            finer = "" if align == 1 else ", or lower budget.align"
            total = totals[name]
            raise PruningError(
                f"the budget of {as_amount(name, limit)} ({limit / total:.1%} of the model) cannot be reached: the "
                f"smallest plan has {as_amount(name, smallest[name])} ({smallest[name] / total:.1%}); raise "
                f"budget.{name} to at least {smallest[name] / total + 5e-4:.3f}{finer}{_frozen_clause(frozen)}"
            )


_MAX_LISTED = 3


def _frozen_clause(frozen: Sequence[FrozenGroup]) -> str:
    listed = [f"'{group.name}' ({group.reason})" for group in frozen[:_MAX_LISTED]]
    more = f" and {len(frozen) - _MAX_LISTED} more" if len(frozen) > _MAX_LISTED else ""
    return f"; frozen groups: {', '.join(listed)}{more}" if frozen else ""


def select(
    cost: CostModel,
    scores: Mapping[str, Tensor],
    *,
    budget: Budget,
    align: Align = 1,
    rank_weight: float = 1.0,
) -> Selection:
    """Keep the channels with the highest ``scores`` within every limit of ``budget``.

    Deterministic for equal scores. Never above a limit; within 1 % of the one that is used most, where the allowed
    widths make that possible; no group is empty; widths in multiples of ``align`` (see ``allowed_widths``).

    A score is a channel's value per MAC: gates learn under a price on MACs, and a gate closes where its value is
    lower. So a limit on MACs, with other limits that do not bind, is met by one threshold over all scores. Where
    others bind, the plan maximises the sum of rank x MACs over kept channels (see ``prices``).

    Args:
        scores: (channels,) of every group of ``cost``; comparable across groups.
        budget: MACs, or a limit for each resource of ``cost``.
        align: a multiple for all groups, or one for each.
        rank_weight: 0..1, weight of a channel's rank in its value where several limits bind; the rest is its MACs, so
            that at 0 the limits decide every width and ranks decide within groups.

    Raises:
        PruningError: nothing can shrink, or a limit is out of reach.
    """
    limits = as_limits(budget)
    check_budget(cost, limits, align)
    widths = Widths(cost, scores, limits, align)
    order = removal_order(widths, scores)
    macs_only = Widths(cost, scores, {"macs": limits["macs"]}, align) if "macs" in limits else None
    if macs_only is not None and limits["macs"] < cost.totals["macs"]:
        cut_by_threshold(macs_only, order)
        exchange_steps(macs_only)
        widths.set_all(macs_only.choice)
    if macs_only is None or not widths.fits():
        cut_by_prices(widths, scores, order, rank_weight)
        exchange_steps(widths)
    plan = widths.plan()
    return Selection(plan, cost.amounts(plan), limits)


def select_fast(
    cost: CostModel,
    scores: Mapping[str, Tensor],
    *,
    budget: Budget,
    align: Align = 1,
    rank_weight: float = 1.0,
) -> Selection:
    """Keep channels within ``budget``, which limits MACs, paying for them in time.

    Under a limit on time alone a plan has channels of high value per ms. Of these plans the slowest is sought that
    meets the limit on MACs, by bisection, and is then filled up within all limits. By the layers' times it is never
    slower than the plan of ``select``, which pays in MACs. The rest of ``budget`` is met, too.

    Args:
        cost: ``timed``. Others: see ``select``.

    Raises:
        PruningError: see ``select``.
    """
    limits = as_limits(budget)
    check_budget(cost, limits, align)
    low, high = smallest_amounts(cost, align)["latency"], cost.totals["latency"]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = select(cost, scores, budget={"latency": middle}, align=align, rank_weight=rank_weight)
        if found.used["macs"] <= limits["macs"]:
            low = middle
        else:
            high = middle
    if high == cost.totals["latency"]:  # every plan is within the limit on MACs: the others decide
        return select(cost, scores, budget=limits, align=align, rank_weight=rank_weight)
    filled = select(cost, scores, budget={**limits, "latency": high}, align=align, rank_weight=rank_weight)
    return replace(filled, budget=limits)
