"""Every limit of a budget file against a target's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from slimsight.compress.amounts import Amount

from ..report.checks import NO_LATENCY, NO_PARITY, NOT_FINITE, all_parity
from ..report.schema import Report, Unit
from ..report.units import as_macs, as_percent, parity_label
from .changes import LayerChange
from .judge_layers import NOTHING_AGAINST, drift_judged, layers_judged
from .limit import Limit
from .schema import Budget, BudgetFile
from .verdict import Judged, Judgement, TargetCosts, TargetFigures, at_level, in_line, judged

_ROUNDING: Final = 1e-9  # accuracies are multiples of 1/images: far above this, and .90 - .89 > .01 in floats
_LISTED: Final = 3


@dataclass(frozen=True)
class Comparison:
    """What a target is compared with: its MACs then, and what changed since. ``name``: how messages call it."""

    name: str
    macs: int
    changes: tuple[LayerChange, ...]

    def culprits(self) -> str | None:
        """The layers that grew, those that were changed themselves before those that follow from them."""
        grown = [change for change in self.changes if change.growth > 0]
        if not grown:
            return None
        named = [f"{c.name} by {as_macs(c.growth)} MACs ({c.why})" for c in grown[:_LISTED]]
        more = f" and {len(grown) - _LISTED} more" if len(grown) > _LISTED else ""
        return f"grown since {self.name}: {'; '.join(named)}{more}"


def check_report(report: Report, limits: BudgetFile) -> Judgement:
    """Every limit against a run's report alone. A figure that is missing fails its check."""
    return Judgement(tuple(_all(TargetFigures.of_report(report), limits, None)))


def judge(figures: TargetFigures, budget: Budget, against: Comparison | None = None) -> Judgement:
    """Every limit of ``budget`` against ``figures``. A figure that is missing fails its check.

    Raises:
        ConfigError: a pattern of ``layers`` that is the name of no layer.
    """
    return Judgement(
        tuple(in_line(item, budget.line(*item.key)) for item in _all(figures, budget.limits, against, budget))
    )


def _all(
    figures: TargetFigures, limits: BudgetFile, against: Comparison | None, source: Budget | None = None
) -> Iterator[Judged]:
    yield from _costs(figures, limits, against)
    yield from _accuracies(figures, limits)
    if limits.parity is not None:
        yield from _parity(figures, limits.parity)
    yield from _times(figures, limits)
    if limits.saliency_drift is not None:
        yield from drift_judged(figures, limits.saliency_drift)
    if limits.growth is not None:
        growth = None if against is None else figures.costs.macs / against.macs - 1
        reason = NOTHING_AGAINST if against is None else against.culprits()
        yield judged(("growth",), "growth of MACs", limits.growth, growth, "growth", bound="max", reason=reason)
    if limits.layers is not None:
        yield from layers_judged(figures, limits.layers, None if against is None else against.changes, source)


def _costs(figures: TargetFigures, limits: BudgetFile, against: Comparison | None) -> Iterator[Judged]:
    costs, reference = figures.costs, figures.reference
    rows: tuple[tuple[str, str, Limit[Amount] | None, int, Unit, Callable[[TargetCosts], int]], ...] = (
        ("macs", "MACs", limits.macs, costs.macs, "MACs", lambda of: of.macs),
        ("params", "parameters", limits.params, costs.params, "parameters", lambda of: of.params),
        ("size", figures.size_name, limits.size, costs.size_bytes, "bytes", lambda of: of.size_bytes),
    )
    for key, name, limit, value, unit, part in rows:
        if limit is None:
            continue
        amounts = {amount for amount in (limit.fail, limit.warn) if amount is not None}
        if reference is None and any(amount.relative for amount in amounts):
            numbers = _map(limit, lambda amount: amount.value)
            yield judged((key,), name, numbers, None, "share", bound="max", reason=_no_original(figures))
            continue
        base = 0 if reference is None else part(reference)
        item = judged((key,), name, _map(limit, partial(_whole, of=base)), value, unit, bound="max")
        yield item if item.check.passed else _explained(item, _blamed(key, figures, against))


def _blamed(key: str, figures: TargetFigures, against: Comparison | None) -> str | None:
    """Where a cost that is too high comes from: what grew, or else what costs most."""
    if against is not None and (grown := against.culprits()):
        return grown
    if not figures.layers or figures.report is not None:
        return None
    costs = {layer.name: layer.macs if key == "macs" else layer.params for layer in figures.layers}
    whole = max(1, figures.costs.macs if key == "macs" else figures.costs.params)
    dearest = sorted(costs, key=lambda name: -costs[name])[:_LISTED]
    listed = ", ".join(f"{name} ({as_percent(costs[name] / whole, 0)})" for name in dearest)
    return f"most {'MACs' if key == 'macs' else 'parameters'}: {listed}"


def _accuracies(figures: TargetFigures, limits: BudgetFile) -> Iterator[Judged]:
    report = figures.report
    silent = f"{figures.kind} says nothing of its accuracy: check the run that made it, or remove the line"
    if limits.accuracy is not None:
        name, value = "accuracy", None
        if report is not None:
            tested = report.slim.test_accuracy is not None
            name = "test accuracy" if tested else "validation accuracy"
            value = report.slim.test_accuracy if tested else report.slim.val_accuracy
        reason = None if report is not None else silent
        yield judged(
            ("accuracy",), name, limits.accuracy, value, "accuracy", bound="min", slack=_ROUNDING, reason=reason
        )
    if limits.accuracy_drop is not None:
        name, drop = "accuracy drop", None
        if report is not None:
            old, new = report.original, report.slim
            name, drop = "validation accuracy drop", round(old.val_accuracy - new.val_accuracy, 10)
            if new.test_accuracy is not None and old.test_accuracy is not None:
                name, drop = "test accuracy drop", round(old.test_accuracy - new.test_accuracy, 10)
        reason = None if report is not None else silent
        key, limit = ("accuracy_drop",), limits.accuracy_drop
        yield judged(key, name, limit, drop, "points", bound="max", slack=_ROUNDING, reason=reason)


def _parity(figures: TargetFigures, limit: Limit[Literal[True] | float]) -> Iterator[Judged]:
    rows = () if figures.report is None else figures.report.parity
    missing = NO_PARITY
    if figures.report is None:
        missing = f"{figures.kind} was compared with nothing: check the run that made it, or remove the line"
    if limit.fail is True or limit.warn is True:
        check = all_parity(rows)
        check = check if rows else check.model_copy(update={"reason": missing})
        yield at_level(("parity",), check, "fail" if limit.fail is True else "warn")
    numbers = _map(limit, lambda level: None if level is True else level)
    if numbers.fail is None and numbers.warn is None:
        return
    if not rows:
        yield judged(("parity",), "parity", numbers, None, "error", bound="max", reason=missing)
    for row in rows:
        name, reason = f"parity of {parity_label(row)}", NOT_FINITE if row.max_abs is None else None
        yield judged(("parity",), name, numbers, row.max_abs, "error", bound="max", reason=reason)


def _times(figures: TargetFigures, limits: BudgetFile) -> Iterator[Judged]:
    missing = NO_LATENCY if figures.report is not None else _no_original(figures)
    if (limit := limits.latency) is not None:
        relative = any(amount is not None and amount.relative for amount in (limit.fail, limit.warn))
        timed = [row for row in figures.timed if row.reference_ms is not None or not relative]
        if not timed:
            plain = _map(limit, lambda amount: amount.value)
            unit: Unit = "share" if relative else "ms"
            yield judged(("latency",), "latency", plain, None, unit, bound="max", reason=missing)
        for row in timed:
            allowed = _map(limit, partial(_part, of=row.reference_ms or 0.0))
            name = f"median latency, {row.where}"
            yield judged(("latency",), name, allowed, row.median_ms, "ms", bound="max", note=_noisy(row.noise))
    if limits.speedup is not None:
        compared = [row for row in figures.timed if row.speedup_low is not None]
        if not compared:
            yield judged(("speedup",), "speed-up", limits.speedup, None, "times", bound="min", reason=missing)
        for row in compared:
            name = f"speed-up, low end, {row.where}"
            note = _noisy(row.noise)
            yield judged(("speedup",), name, limits.speedup, row.speedup_low, "times", bound="min", note=note)


def _whole(amount: Amount, *, of: int) -> float:
    return float(amount.limit(of))


def _part(amount: Amount, *, of: float) -> float:
    return amount.of(of)


def _noisy(reasons: tuple[str, ...]) -> str | None:
    return f"noisy: {'; '.join(reasons)}" if reasons else None


def _no_original(figures: TargetFigures) -> str:
    return f"{figures.kind} has no original that this could refer to: give an amount, or name a baseline in the file"


def _map(limit: Limit[Any], read: Callable[[Any], float | None]) -> Limit[float]:
    return Limit(*(None if level is None else read(level) for level in (limit.fail, limit.warn)))


def _explained(item: Judged, reason: str | None) -> Judged:
    return replace(item, check=item.check.model_copy(update={"reason": reason}))
