"""The checks that every run makes on itself, and their verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..report.int8 import Int8FileFigures
from ..report.parts import DynamicFigures
from ..report.schema import BudgetFigures, Exactness, LatencyFigures, ModelFigures, ParityRow, Unit, Verdict
from .accuracy import AccuracyFacts, accuracy_checks
from .agreement import AgreementFacts, agreement_check
from .figures import TimedFigures
from .judge import NO_LATENCY, NOT_FINITE, latency_checks, parity_passed
from .judge_int8 import int8_own_checks
from .limit import Limit
from .verdict import check_figure

EXACTNESS_LIMIT: Final = 1e-5  # relative difference of logits, hard gates against slim model


def run_checks(
    *,
    slim: ModelFigures,
    budget: BudgetFigures,
    exactness: Exactness,
    accuracy: AccuracyFacts | None,
    agreement: AgreementFacts | None = None,
    labelled: bool = True,
    parity: Sequence[ParityRow],
    latency: Sequence[LatencyFigures] = (),
    dynamic: DynamicFigures | None = None,
    int8: Int8FileFigures | None = None,
    notes: Sequence[str] = (),
) -> Verdict:
    """The run's own verdict: within its recipe's budget, accurate, exact, counted right, and in parity.

    A run that exported nothing passes ``parity=()`` and has no parity check. ``accuracy=None``: it was measured, and is
    not judged (``checks.accuracy_drop: null``); the verdict says so. Without labels that is said of ``agreement``.
    ``notes``: what was not done as the recipe asks.
    """
    checks = []
    if budget.macs_max is not None:
        checks.append(check_figure("MACs", budget.macs_max, slim.macs, "MACs"))
    if dynamic is not None:
        checks.append(check_figure("MACs, dynamic, mean", dynamic.macs_max, dynamic.macs_mean, "MACs"))
        checks.append(check_figure("routes like PyTorch's", 1, dynamic.route_agreement, "overlap", bound="min"))
    costs: tuple[tuple[str, float | None, int, Unit], ...] = (
        ("parameters", budget.params_max, slim.params, "parameters"),
        ("size of the weights", budget.size_max, slim.size_bytes, "bytes"),
    )
    checks += [check_figure(name, limit, value, unit) for name, limit, value, unit in costs if limit is not None]
    if budget.latency_max is not None:
        in_int8 = budget.latency_precision == "int8"
        timed = TimedFigures.of_int8(latency) if in_int8 else TimedFigures.of_rows(latency)
        checks += [item.check for item in latency_checks(timed, Limit(budget.latency_max), NO_LATENCY)]
    if accuracy is not None:
        checks += accuracy_checks(accuracy)
    if agreement is not None:
        checks.append(agreement_check(agreement))
    difference = exactness.gated_vs_slim_max_rel
    reason = NOT_FINITE if difference is None else None
    checks.append(check_figure("exactness, gated against slim", EXACTNESS_LIMIT, difference, "error", reason=reason))
    predicted, counted = exactness.cost_model_macs, exactness.fvcore_macs
    checks.append(check_figure("cost model against fvcore", counted, predicted, "MACs", bound="equal"))
    if parity:
        checks.append(parity_passed(parity))
    if int8 is not None:
        checks += int8_own_checks(int8, accuracy, agreement)
    if not labelled:
        return Verdict.of(checks, agreement_judged=agreement is not None, notes=notes)
    return Verdict.of(checks, accuracy_judged=accuracy is not None, notes=notes)
