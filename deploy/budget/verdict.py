"""The one rule by which a figure passes its limit, and a budget file's verdict made of such checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from slimsight.compress.amounts import Amount

from ..report.schema import Check, Unit
from .limit import LEVELS, Bound, Level, Limit

_ROUNDING: Final[Mapping[Unit, float]] = {"accuracy": 1e-9, "points": 1e-9}
"""Accuracies are multiples of 1/images, far above this; and .90 - .89 > .01 in floats."""


def check_figure(
    name: str,
    limit: float,
    value: float | None,
    unit: Unit,
    *,
    bound: Literal["max", "min", "equal"] = "max",
    reason: str | None = None,
) -> Check:
    """Whether ``value`` is at most (``max``), at least (``min``) or exactly (``equal``) ``limit``.

    A value that is missing (None) never passes, and one that is not finite counts as missing. ``reason``: why it is
    missing, or what to know of a failure.
    """
    slack = _ROUNDING.get(unit, 0.0)
    value = None if value is None or not math.isfinite(value) else value
    if value is None:
        passed = False
    elif bound == "max":
        passed = value <= limit + slack
    elif bound == "min":
        passed = value >= limit - slack
    else:
        passed = value == limit
    return Check(name=name, limit=limit, value=value, passed=passed, bound=bound, unit=unit, reason=reason)


def allowed_amount(amount: Amount, original: float, unit: Unit) -> float:
    """The most that ``amount`` allows, given the original's: whole MACs, parameters and bytes; any time in ms."""
    return amount.of(original) if unit == "ms" else float(amount.limit(int(original)))


Status = Literal["failed", "warned", "ok"]
_ORDER: Final[Mapping[Status, int]] = {"failed": 0, "warned": 1, "ok": 2}


@dataclass(frozen=True)
class BudgetCheck:
    """A check of one key of a budget file. ``level``: what it means when it did not pass.

    ``line``: of the key; ``note``: what to know of the figure (that it was noisy, say).
    """

    key: tuple[str, ...]
    check: Check
    level: Level = "fail"
    line: int | None = None
    note: str | None = None

    @property
    def status(self) -> Status:
        if self.check.passed:
            return "ok"
        return "failed" if self.level == "fail" else "warned"


@dataclass(frozen=True)
class BudgetVerdict:
    """All checks of a budget file, in its order."""

    items: tuple[BudgetCheck, ...]

    @property
    def passed(self) -> bool:
        """Nothing failed; warnings are allowed. Without a single check nothing has passed."""
        return bool(self.items) and not self.failed

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(item.check for item in self.items)

    @property
    def failed(self) -> tuple[BudgetCheck, ...]:
        return tuple(item for item in self.items if item.status == "failed")

    @property
    def warned(self) -> tuple[BudgetCheck, ...]:
        return tuple(item for item in self.items if item.status == "warned")

    @property
    def by_urgency(self) -> tuple[BudgetCheck, ...]:
        """Failures, then warnings, then the rest; within these in the order of the file."""
        return tuple(sorted(self.items, key=lambda item: _ORDER[item.status]))

    def summary(self) -> str:
        """``2 of 5 checks failed, 1 warned``."""
        count, warned = len(self.items), len(self.warned)
        also = f", {warned} warned" if warned else ""
        if self.failed:
            return f"{len(self.failed)} of {count} checks failed{also}"
        return f"{'1 check' if count == 1 else f'all {count} checks'} passed{also}"


def check_levels(
    key: tuple[str, ...],
    name: str,
    limit: Limit[float],
    value: float | None,
    unit: Unit,
    *,
    bound: Bound,
    reason: str | None = None,
    note: str | None = None,
) -> BudgetCheck:
    """``value`` against the first level that it misses, ``fail`` before ``warn``; a missing value misses both."""
    checks = [
        BudgetCheck(key, check_figure(name, allowed, value, unit, bound=bound, reason=reason), level, note=note)
        for level in LEVELS
        if (allowed := limit.at(level)) is not None
    ]
    return next((item for item in checks if not item.check.passed), checks[0])
