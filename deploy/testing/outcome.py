"""Outcome of an assertion: a figure, and the text of a failure that names the layers that cost most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slimsight.compress.errors import SlimError

from ..budget import check_figure
from ..report.schema import Unit
from ..report.units import as_percent, as_unit, check_texts, excess, relative_excess

_LISTED = 3


@dataclass(frozen=True)
class AssertionOutcome:
    """A figure, and the text of the failure where it did not pass."""

    value: float
    failure: str | None


def check_cost(
    name: str,
    value: float,
    limit: float,
    unit: Unit,
    *,
    by_layer: Callable[[], Mapping[str, float]],
    heading: str,
    ratio: str = "",
    notes: tuple[str, ...] = (),
) -> AssertionOutcome:
    """``value`` against the most allowed.

    Args:
        by_layer: the cost of each layer, in ``unit``; called only after a failure.
        heading: of the list of layers that cost most.
        ratio: what a relative limit came from: ``50.0 % of 40.55 M``.
        notes: lines that follow, each on its own.
    """
    check = check_figure(name, limit, value, unit)
    if check.passed:
        return AssertionOutcome(value, None)
    allowed, measured = check_texts(check)
    origin = f" ({ratio})" if ratio else ""
    over = "" if check.value is None else f": {as_unit(unit, excess(check))} too much"
    if relative := relative_excess(check):
        over += f", {as_percent(relative, 1)} over"
    lines = [f"{name}: {measured}, {allowed}{origin} allowed{over}", *notes]
    layers = by_layer()
    total = sum(layers.values())
    if total > 0:
        most = sorted(layers.items(), key=lambda item: -item[1])[:_LISTED]
        rows = [(layer, as_unit(unit, cost), as_percent(cost / total, 1)) for layer, cost in most]
        name_width, cost_width, share_width = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines.append(f"{heading}:")
        lines += [
            f"  {layer:{name_width}}  {cost:>{cost_width}}  {share:>{share_width}}" for layer, cost, share in rows
        ]
    return AssertionOutcome(value, "\n".join(lines))


def value_or_raise(measure: Callable[[], AssertionOutcome]) -> float:
    """The figure of ``measure``.

    Raises:
        AssertionError: it did not pass.
        SlimError: an argument cannot be used; one sentence, and of the traceback only the caller's part.
    """
    __tracebackhide__ = True
    try:
        outcome = measure()
    except SlimError as error:
        raise error.with_traceback(None) from None
    if outcome.failure is not None:
        raise AssertionError(outcome.failure)
    return outcome.value
