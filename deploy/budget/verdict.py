"""A budget file's verdict: each limit against one figure, and how the whole ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..report.schema import Check, Unit
from .limit import Bound, Limit

Status = Literal["failed", "warned", "ok"]
_ORDER: dict[Status, int] = {"failed": 0, "warned": 1, "ok": 2}


@dataclass(frozen=True)
class Judged:
    """A check of one key of the file. ``level``: what it means when it did not pass.

    ``line``: of the key; ``note``: what to know of the figure (that it was noisy, say).
    """

    key: tuple[str, ...]
    check: Check
    level: Literal["fail", "warn"] = "fail"
    line: int | None = None
    note: str | None = None

    @property
    def status(self) -> Status:
        if self.check.passed:
            return "ok"
        return "failed" if self.level == "fail" else "warned"


@dataclass(frozen=True)
class Judgement:
    """All checks of a budget file, in its order."""

    found: tuple[Judged, ...]

    @property
    def passed(self) -> bool:
        """Nothing failed; warnings are allowed. Without a single check nothing has passed."""
        return bool(self.found) and not self.failed

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(item.check for item in self.found)

    @property
    def failed(self) -> tuple[Judged, ...]:
        return tuple(item for item in self.found if item.status == "failed")

    @property
    def warned(self) -> tuple[Judged, ...]:
        return tuple(item for item in self.found if item.status == "warned")

    @property
    def by_urgency(self) -> tuple[Judged, ...]:
        """What failed, then what warned, then the rest; within these in the order of the file."""
        return tuple(sorted(self.found, key=lambda item: _ORDER[item.status]))

    def summary(self) -> str:
        """``2 of 5 checks failed, 1 warned``."""
        count, warned = len(self.found), len(self.warned)
        also = f", {warned} warned" if warned else ""
        if self.failed:
            return f"{len(self.failed)} of {count} checks failed{also}"
        return f"{'1 check' if count == 1 else f'all {count} checks'} passed{also}"


def judged(
    key: tuple[str, ...],
    name: str,
    limit: Limit[float],
    value: float | None,
    unit: Unit,
    *,
    bound: Bound,
    slack: float = 0.0,
    reason: str | None = None,
    note: str | None = None,
) -> Judged:
    """``value`` against the level that it misses: ``fail`` before ``warn``; a value that is missing misses both."""
    found: Judged | None = None
    for level in ("fail", "warn"):
        allowed = limit.fail if level == "fail" else limit.warn
        if allowed is None:
            continue
        within = value is not None and (value <= allowed + slack if bound == "max" else value >= allowed - slack)
        check = Check(name=name, limit=allowed, value=value, passed=within, bound=bound, unit=unit, reason=reason)
        if not within:
            return Judged(key, check, "fail" if level == "fail" else "warn", note=note)
        found = found or Judged(key, check, note=note)
    assert found is not None, "a limit has a level"
    return found


def at_level(key: tuple[str, ...], check: Check, level: Literal["fail", "warn"]) -> Judged:
    """A check that was made elsewhere."""
    return Judged(key, check, level)


def in_line(item: Judged, line: int | None) -> Judged:
    return replace(item, line=line)
