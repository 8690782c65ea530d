"""What can be said of a model that is held to a budget, whatever kind of target it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from slimsight.export.costs.layers import LayerCost

from ..report.schema import Check, Report, Unit
from ..report.units import latency_label
from .limit import Bound, Limit


@dataclass(frozen=True)
class TargetCosts:
    """MACs of one image, parameters, bytes."""

    macs: int
    params: int
    size_bytes: int


@dataclass(frozen=True)
class TimedFigures:
    """A latency: its median, and where there is a reference, that one's and the low end of the speed-up's interval."""

    where: str
    median_ms: float
    reference_ms: float | None = None
    speedup_low: float | None = None
    noise: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetFigures:
    """A target's figures. What is None or empty is not known; ``kind`` then says of what: ``an ONNX file``.

    ``reference``: what ratios refer to; ``size_name``: what ``costs.size_bytes`` is the size of.
    """

    kind: str
    costs: TargetCosts
    size_name: str
    reference: TargetCosts | None = None
    layers: tuple[LayerCost, ...] | None = None
    report: Report | None = None
    timed: tuple[TimedFigures, ...] = ()

    @classmethod
    def of_report(cls, report: Report, layers: tuple[LayerCost, ...] | None = None) -> TargetFigures:
        """A run's: its slim model against its original."""
        old, new = report.original, report.slim
        return cls(
            kind="a run",
            costs=TargetCosts(new.macs, new.params, new.size_bytes),
            size_name="size of the weights",
            reference=TargetCosts(old.macs, old.params, old.size_bytes),
            layers=layers,
            report=report,
            timed=tuple(
                TimedFigures(latency_label(row), row.slim_ms.median, row.original_ms.median, row.speedup.low)
                for row in report.latency
            ),
        )


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
