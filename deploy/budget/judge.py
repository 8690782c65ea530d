"""Judge a target: every limit of a budget file against the target's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import ConfigError

from ..report.schema import Check, ParityRow, Report, Unit
from ..report.units import as_macs, as_percent, parity_label
from .accuracy import accuracy_drop
from .changes import LayerChange, relative_growth
from .figures import TargetFigures, TimedFigures
from .judge_device import device_checks
from .judge_int8 import int8_checks
from .judge_layers import NO_COMPARISON, layer_checks
from .limit import LEVELS, Bound, Limit
from .schema import Budget, BudgetFile, DriftLimits
from .verdict import BudgetCheck, BudgetVerdict, allowed_amount, check_figure, check_levels

NO_LATENCY: Final = "the report has no latency rows; time the models and run again"
NO_TEST: Final = " (no test images)"
NOT_FINITE: Final = "the logits are not finite numbers"
_NO_PARITY: Final = "the report has no parity rows; export the model and run again"
_NOT_JUDGED: Final = "the run did not judge its accuracy (checks.accuracy_drop is null, or an earlier version made it)"
_NOT_JUDGED_AGREEMENT: Final = "the run did not judge its agreement with the original (checks.agreement is null)"
_NO_LABELS: Final = (
    "the run's images have no labels (data.labels: none), so no accuracy is known; limit agreement instead"
)
_NO_EXPLAINER: Final = (
    "the run has no explainer, so nothing is known of its saliency; set explainer.enabled and run again"
)
_NOT_MEASURED: Final = "the report has no such figure; run 'slimsight run' again to measure it"
_NO_CHANCE: Final = "the run was made before chance levels were measured, or on a single validation image: run it again"
_UNDEFINED: Final = "no image defines it: maps of one of the models say nothing"
_LISTED: Final = 3


@dataclass(frozen=True)
class Comparison:
    """Another target to compare with: its MACs, and the layers that changed since. ``name``: for messages."""

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


def check_report(report: Report, limits: BudgetFile) -> BudgetVerdict:
    """Every limit against a run's report. A figure that is missing fails its check."""
    return BudgetVerdict(tuple(_checks(TargetFigures.of_report(report), limits, None)))


def judge(figures: TargetFigures, budget: Budget, against: Comparison | None = None) -> BudgetVerdict:
    """Every limit of ``budget`` against ``figures``. A figure that is missing fails its check.

    Raises:
        ConfigError: a pattern of ``layers`` matches no layer, or growth is limited against 0 MACs.
    """
    checks = _checks(figures, budget.limits, against, budget)
    return BudgetVerdict(tuple(replace(item, line=budget.line(*item.key)) for item in checks))


def _checks(
    figures: TargetFigures, limits: BudgetFile, against: Comparison | None, source: Budget | None = None
) -> Iterator[BudgetCheck]:
    if limits.own_checks is not None:
        yield from _own_checks(figures, limits.own_checks)
    yield from _cost_checks(figures, limits, against)
    yield from _accuracy_checks(figures, limits)
    if limits.agreement is not None:
        yield _agreement_check(figures, limits.agreement)
    if limits.parity is not None:
        yield from _parity_checks(figures, limits.parity)
    missing = NO_LATENCY if figures.report is not None else _no_original(figures)
    if limits.latency is not None:
        yield from latency_checks(figures.timed, limits.latency, missing)
    if limits.device_latency is not None:
        yield from device_checks(figures.devices, limits.device_latency)
    if limits.speedup is not None:
        yield from _speedup_checks(figures.timed, limits.speedup, missing)
    if limits.saliency_drift is not None:
        yield from _drift_checks(figures, limits.saliency_drift)
    if limits.int8 is not None:
        yield from int8_checks(figures, limits.int8)
    if limits.growth is not None:
        growth = None if against is None else _growth(figures.costs.macs, against)
        reason = NO_COMPARISON if against is None else against.culprits()
        yield check_levels(("growth",), "growth of MACs", limits.growth, growth, "growth", bound="max", reason=reason)
    if limits.layers is not None:
        yield from layer_checks(figures, limits.layers, None if against is None else against.changes, source)


def _growth(macs: int, against: Comparison) -> float:
    """Growth of the MACs since ``against``, relative to it.

    Raises:
        ConfigError: they grew from 0.
    """
    growth = relative_growth(against.macs, macs)
    if growth is None:
        raise ConfigError(
            f"growth: {against.name} has 0 MACs, so no growth relative to it is defined; compare with another target, "
            "or limit macs instead"
        )
    return growth


def _own_checks(figures: TargetFigures, limit: Limit[Literal[True]]) -> Iterator[BudgetCheck]:
    """The checks of the run's own verdict, as they were judged; that accuracy was not judged is a warning."""
    key, level = ("own_checks",), LEVELS[0] if limit.fail else LEVELS[1]
    if figures.report is None:
        reason = f"{figures.kind} has no verdict of its own: check the run that made it, or remove the line"
        yield BudgetCheck(key, check_figure("the run's own checks", 1, None, "rows", bound="min", reason=reason), level)
        return
    verdict = figures.report.verdict
    for check in verdict.checks:
        why = "; ".join(filter(None, (check.reason, check.remedy))) or None
        yield BudgetCheck(key, check.model_copy(update={"reason": why}), level)
    for note in verdict.notes or ():
        yield BudgetCheck(
            key, check_figure("done as the recipe asks", 1, None, "rows", bound="min", reason=note.rstrip(".")), "warn"
        )
    if verdict.agreement_judged is False:
        name, reason = "agreement judged by the run", _NOT_JUDGED_AGREEMENT
        yield BudgetCheck(key, check_figure(name, 1, None, "rows", bound="min", reason=reason), "warn")
    elif not verdict.accuracy_judged and verdict.agreement_judged is None:
        name, reason = "accuracy judged by the run", _NOT_JUDGED
        yield BudgetCheck(key, check_figure(name, 1, None, "rows", bound="min", reason=reason), "warn")


def _cost_checks(figures: TargetFigures, limits: BudgetFile, against: Comparison | None) -> Iterator[BudgetCheck]:
    rows: tuple[tuple[str, str, str, Limit[Amount] | None, Unit], ...] = (
        ("macs", "macs", "MACs", limits.macs, "MACs"),
        ("params", "params", "parameters", limits.params, "parameters"),
        ("size", "size_bytes", figures.size_name, limits.size, "bytes"),
    )
    for key, field, name, limit, unit in rows:
        if limit is None:
            continue
        value, original = getattr(figures.costs, field), getattr(figures.reference, field, None)
        if original is None and any(amount.relative for amount in limit.levels()):
            ratios = limit.map(lambda amount: amount.value)
            yield check_levels((key,), name, ratios, None, "share", bound="max", reason=_no_original(figures))
            continue
        allowed = _allowed(limit, original or 0, unit)
        item = check_levels((key,), name, allowed, value, unit, bound="max")
        if not item.check.passed:
            item = replace(item, check=item.check.model_copy(update={"reason": _costliest(key, figures, against)}))
        yield item


def _allowed(limit: Limit[Amount], original: float, unit: Unit) -> Limit[float]:
    return limit.map(lambda amount: allowed_amount(amount, original, unit))


def _costliest(key: str, figures: TargetFigures, against: Comparison | None) -> str | None:
    """Where a cost that is too high comes from: the layers that grew, or else those that cost most."""
    if against is not None and (grown := against.culprits()):
        return grown
    if not figures.layers or figures.report is not None:
        return None
    costs = {layer.name: layer.macs if key == "macs" else layer.params for layer in figures.layers}
    total = max(1, figures.costs.macs if key == "macs" else figures.costs.params)
    names = sorted(costs, key=lambda name: -costs[name])[:_LISTED]
    listed = ", ".join(f"{name} ({as_percent(costs[name] / total, 0)})" for name in names)
    return f"most {'MACs' if key == 'macs' else 'parameters'}: {listed}"


def _accuracy_checks(figures: TargetFigures, limits: BudgetFile) -> Iterator[BudgetCheck]:
    report = figures.report
    accuracy: float | None = None
    drop: float | None = None
    images, reason, untested = "", None, False
    if report is None:
        reason = f"{figures.kind} says nothing of its accuracy: check the run that made it, or remove the line"
    else:
        old, new = report.original, report.slim
        reason = None if report.labelled else _NO_LABELS
        images, accuracy = "validation ", new.val_accuracy
        untested = report.data is not None and report.data.without_test
        if new.test_accuracy is not None:
            images, accuracy = "test ", new.test_accuracy
    if limits.accuracy is not None:
        name = f"{images}accuracy{NO_TEST if untested else ''}"
        yield check_levels(("accuracy",), name, limits.accuracy, accuracy, "accuracy", bound="min", reason=reason)
    if limits.accuracy_drop is not None:
        if report is not None:
            images, drop = "validation ", accuracy_drop(old.val_accuracy, new.val_accuracy)
            if new.test_accuracy is not None and old.test_accuracy is not None:
                images, drop = "test ", accuracy_drop(old.test_accuracy, new.test_accuracy)
        name = f"{images}accuracy drop{NO_TEST if untested else ''}"
        yield check_levels(("accuracy_drop",), name, limits.accuracy_drop, drop, "points", bound="max", reason=reason)


def _agreement_check(figures: TargetFigures, limit: Limit[float]) -> BudgetCheck:
    """Of test images where the run measured it there, else of validation images."""
    found = None if figures.report is None else figures.report.agreement
    name, value = "agreement with the original", None
    reason: str | None = _NOT_MEASURED
    if figures.report is None:
        reason = f"{figures.kind} was compared with no original: check the run that made it, or remove the line"
    elif found is not None:
        measured = found.test or found
        name, value, reason = f"{'test' if found.test else 'validation'} {name}", measured.top1, None
    return check_levels(("agreement",), name, limit, value, "images", bound="min", reason=reason)


def parity_passed(rows: Sequence[ParityRow], missing: str = _NO_PARITY) -> Check:
    """Every row passed its own tolerance; without a row it failed, for the reason ``missing``."""
    name = "parity, rows passed"
    if not rows:
        return check_figure(name, 1, None, "rows", bound="min", reason=missing)
    failed = [
        f"{parity_label(row)} ({row.first_difference})" if row.first_difference else parity_label(row)
        for row in rows
        if not row.passed
    ]
    reason = f"failed: {'; '.join(failed)}" if failed else None
    return check_figure(name, len(rows), len(rows) - len(failed), "rows", bound="min", reason=reason)


def _parity_checks(figures: TargetFigures, limit: Limit[Literal[True] | float]) -> Iterator[BudgetCheck]:
    rows = () if figures.report is None else figures.report.parity
    missing = _NO_PARITY
    if figures.report is None:
        missing = f"{figures.kind} was compared with nothing: check the run that made it, or remove the line"
    if limit.fail is True or limit.warn is True:
        yield BudgetCheck(("parity",), parity_passed(rows, missing), "fail" if limit.fail is True else "warn")
    largest: Limit[float] = limit.map(lambda level: None if level is True else level)
    if not largest.levels():
        return
    if not rows:
        yield check_levels(("parity",), "parity", largest, None, "error", bound="max", reason=missing)
    for row in rows:
        name, reason = f"parity of {parity_label(row)}", NOT_FINITE if row.max_abs is None else None
        yield check_levels(("parity",), name, largest, row.max_abs, "error", bound="max", reason=reason)


def latency_checks(timed: Sequence[TimedFigures], limit: Limit[Amount], missing: str) -> Iterator[BudgetCheck]:
    """A check per median; a ratio refers to the reference of the same row. ``missing``: why there is none."""
    relative = any(amount.relative for amount in limit.levels())
    rows = [row for row in timed if row.reference_ms is not None or not relative]
    if not rows:
        unit: Unit = "share" if relative else "ms"
        values = limit.map(lambda amount: amount.value)
        yield check_levels(("latency",), "latency", values, None, unit, bound="max", reason=missing)
    for row in rows:
        name, allowed = f"median latency, {row.where}", _allowed(limit, row.reference_ms or 0.0, "ms")
        yield check_levels(("latency",), name, allowed, row.median_ms, "ms", bound="max", note=_noise_note(row))


def _speedup_checks(timed: Sequence[TimedFigures], limit: Limit[float], missing: str) -> Iterator[BudgetCheck]:
    rows = [row for row in timed if row.speedup_low is not None]
    if not rows:
        yield check_levels(("speedup",), "speed-up", limit, None, "times", bound="min", reason=missing)
    for row in rows:
        name, note = f"speed-up, low end, {row.where}", _noise_note(row)
        yield check_levels(("speedup",), name, limit, row.speedup_low, "times", bound="min", note=note)


def _noise_note(row: TimedFigures) -> str | None:
    return f"noisy: {'; '.join(row.noise)}" if row.noise else None


def _no_original(figures: TargetFigures) -> str:
    return f"{figures.kind} has no original that this could refer to: give an amount, or name a baseline in the file"


def _no_saliency(figures: TargetFigures) -> str:
    """Why a run has no figures of saliency."""
    explainer = None if figures.report is None else figures.report.explainer
    if explainer is None or explainer.used:
        return _NO_EXPLAINER
    return f"the run went on without its explainer: {explainer.reason}"


def _drift_checks(figures: TargetFigures, limits: DriftLimits) -> Iterator[BudgetCheck]:
    """A check per limit, of the mean over images.

    Lost explanations are always checked: means are over the images that still have one.
    """
    saliency = None if figures.report is None else figures.report.saliency
    maps = None if saliency is None else saliency.maps
    missing = _NOT_MEASURED if saliency is not None else _no_saliency(figures)
    if figures.report is None:
        missing = f"{figures.kind} has no explanations to compare: check the run that made it, or remove the line"

    undefined = missing if maps is None else _UNDEFINED
    chance = None if saliency is None else saliency.chance
    share = None if chance is None else chance.share.mean
    share_missing = missing if saliency is None or chance is not None else _NO_CHANCE
    rows: tuple[tuple[str, str, Unit, Bound, float | None, str], ...] = (
        ("center_px", "centre", "px", "max", None if saliency is None else saliency.center_drift_px, missing),
        ("iou", "overlap of maps", "overlap", "min", None if saliency is None else saliency.iou, missing),
        ("share", "share of the way to chance", "overlap", "max", share, share_missing),
        (
            "region_iou",
            "overlap of regions",
            "overlap",
            "min",
            None if maps is None else maps.region_iou.mean,
            undefined,
        ),
        ("moved", "top region moved", "images", "max", None if maps is None else maps.moved.mean, undefined),
        ("lost", "explanation lost", "images", "max", None if maps is None else maps.lost, missing),
    )
    for key, what, unit, bound, value, reason in rows:
        limit = getattr(limits, key) or (Limit(0.0) if key == "lost" and maps is not None else None)
        if limit is not None:
            name, why = f"saliency drift, {what}", reason if value is None else None
            yield check_levels(("saliency_drift", key), name, limit, value, unit, bound=bound, reason=why)
