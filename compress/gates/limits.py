"""From budgets as people write them to limits on a model's resources."""

from __future__ import annotations

from pydantic import ValidationError

from ..config import BudgetConfig
from ..errors import ConfigError
from .cost import CostModel


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
