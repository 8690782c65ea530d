"""Checks: one limit against one figure each, and the verdict every run gives on itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, Literal

from slimsight.compress.amounts import Amount

from .parts import DynamicFigures
from .schema import BudgetFigures, Check, Exactness, LatencyFigures, ModelFigures, ParityRow, Unit, Verdict
from .units import latency_label, parity_label

EXACTNESS_LIMIT: Final = 1e-5  # relative difference of logits, hard gates against slim model
NO_PARITY: Final = "the report has no parity rows; export the model and run again"
NO_LATENCY: Final = "the report has no latency rows; time the models and run again"
NOT_FINITE: Final = "the logits are not finite numbers"


def _check(
    name: str,
    limit: float,
    value: float | None,
    unit: Unit,
    *,
    bound: Literal["max", "min"],
    slack: float = 0.0,
    reason: str | None = None,
) -> Check:
    within = value is not None and (value <= limit + slack if bound == "max" else value >= limit - slack)
    return Check(name=name, limit=limit, value=value, passed=within, bound=bound, unit=unit, reason=reason)


at_most = partial(_check, bound="max")
at_least = partial(_check, bound="min")


def all_parity(rows: Sequence[ParityRow]) -> Check:
    """Every row passed its own tolerance."""
    if not rows:
        return at_least("parity, rows passed", 1, None, "rows", reason=NO_PARITY)
    failed = [_where(row) for row in rows if not row.passed]
    reason = f"failed: {'; '.join(failed)}" if failed else None
    return at_least("parity, rows passed", len(rows), len(rows) - len(failed), "rows", reason=reason)


def _where(row: ParityRow) -> str:
    return f"{parity_label(row)} ({row.first_difference})" if row.first_difference else parity_label(row)


def run_checks(
    *,
    slim: ModelFigures,
    budget: BudgetFigures,
    exactness: Exactness,
    parity: Sequence[ParityRow],
    latency: Sequence[LatencyFigures] = (),
    dynamic: DynamicFigures | None = None,
) -> Verdict:
    """The run's own verdict: within its recipe's budget, exact, counted right, and in parity.

    A run that exported nothing passes ``parity=()`` and has no parity check.
    """
    checks = []
    if budget.macs_max is not None:
        checks.append(at_most("MACs", budget.macs_max, slim.macs, "MACs"))
    if dynamic is not None:
        checks.append(at_most("MACs, dynamic, mean", dynamic.macs_max, dynamic.macs_mean, "MACs"))
        checks.append(at_least("routes like PyTorch's", 1, dynamic.route_agreement, "overlap"))
    if budget.params_max is not None:
        checks.append(at_most("parameters", budget.params_max, slim.params, "parameters"))
    if budget.size_max is not None:
        checks.append(at_most("size of the weights", budget.size_max, slim.size_bytes, "bytes"))
    if (limit := latency_limit(budget)) is not None:
        checks.extend(latency_within(latency, limit))
    difference = exactness.gated_vs_slim_max_rel
    reason = NOT_FINITE if difference is None else None
    checks.append(at_most("exactness, gated against slim", EXACTNESS_LIMIT, difference, "error", reason=reason))
    model, counted = exactness.cost_model_macs, exactness.fvcore_macs
    checks.append(
        Check(
            name="cost model against fvcore",
            limit=counted,
            value=model,
            passed=model == counted,
            bound="equal",
            unit="MACs",
        )
    )
    return Verdict.of([*checks, all_parity(parity)] if parity else checks)


def latency_limit(budget: BudgetFigures) -> Amount | None:
    """What a recipe allows of latency, if it limits it."""
    if budget.latency_ratio_max is not None:
        return Amount(budget.latency_ratio_max, relative=True)
    return None if budget.latency_ms_max is None else Amount(budget.latency_ms_max, relative=False)


def latency_within(rows: Sequence[LatencyFigures], limit: Amount) -> Iterator[Check]:
    """A check per row: the slim model's median in ms; a ratio is one to the original's in the same row."""
    if not rows:
        yield at_most("latency", limit.value, None, "share" if limit.relative else "ms", reason=NO_LATENCY)
    for row in rows:
        name = f"median latency, {latency_label(row)}"
        yield at_most(name, limit.of(row.original_ms.median), row.slim_ms.median, "ms")
