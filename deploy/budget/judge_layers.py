"""Limits of a budget file on single layers, by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import ConfigError
from slimsight.export.costs.layers import LayerCost

from ..report.schema import Unit
from .changes import LayerChange, relative_growth
from .figures import TargetFigures
from .limit import Limit
from .schema import Budget, LayerLimits
from .verdict import BudgetCheck, check_levels

NO_COMPARISON: Final = "there is nothing to compare with: name it with --against"
_NO_LAYERS: Final = "the run has no slim/model.onnx that its layers could be read from; export it to onnx"
_SUGGESTED: Final = 3
_UNITS: Final[Mapping[str, Unit]] = {"macs": "MACs", "params": "parameters", "growth": "growth"}


def layer_checks(
    figures: TargetFigures,
    limits: Mapping[str, LayerLimits],
    changes: Sequence[LayerChange] | None,
    source: Budget | None,
) -> Iterator[BudgetCheck]:
    """A check for each layer beyond a limit; where none is, one check for the layer that comes nearest to it.

    Raises:
        ConfigError: a pattern matches no layer.
    """
    by_name = {change.name: change for change in changes or ()}
    for pattern, given in limits.items():
        if figures.layers is None:
            for name in sorted(given.model_fields_set):
                key, limit, unit = ("layers", pattern, name), _numbers(getattr(given, name)), _UNITS[name]
                yield check_levels(key, f"{name} of {pattern}", limit, None, unit, bound="max", reason=_NO_LAYERS)
            continue
        matched = [layer for layer in figures.layers if fnmatchcase(layer.name, pattern)]
        if not matched:
            raise ConfigError(_no_match(pattern, figures.layers, source))
        # What was changed itself comes before what only followed.
        matched.sort(key=lambda layer: -max(by_name[layer.name].own, 0) if layer.name in by_name else 0)
        for name, unit in _UNITS.items():
            if getattr(given, name) is None:
                continue
            key, limit = ("layers", pattern, name), _numbers(getattr(given, name))
            if name == "growth" and changes is None:
                text = f"growth of {pattern}"
                yield check_levels(key, text, limit, None, unit, bound="max", reason=NO_COMPARISON)
                continue
            yield from _failed_or_nearest(
                [_layer_check(key, layer, limit, unit, by_name.get(layer.name)) for layer in matched], pattern
            )


def _layer_check(
    key: tuple[str, ...], layer: LayerCost, limit: Limit[float], unit: Unit, change: LayerChange | None
) -> BudgetCheck:
    value = _growth(change) if unit == "growth" else layer.macs if unit == "MACs" else layer.params
    reason = None if change is None or change.growth <= 0 else change.why
    return check_levels(key, f"{unit} of {layer.name}", limit, value, unit, bound="max", reason=reason)


def _growth(change: LayerChange | None) -> float | None:
    """Relative growth of MACs; None of a layer that was not there before, or had none."""
    if change is None or change.after is None:
        return 0.0
    return None if change.before is None else relative_growth(change.before.macs, change.after.macs)


def _failed_or_nearest(checks: Sequence[BudgetCheck], pattern: str) -> Iterator[BudgetCheck]:
    missed = [item for item in checks if item.status != "ok"]
    if missed:
        yield from missed
        return
    nearest = max(checks, key=lambda item: item.check.value or 0.0)
    if len(checks) > 1:
        name = f"{nearest.check.name} (most of {len(checks)} in {pattern})"
        check = nearest.check.model_copy(update={"name": name, "reason": None})
        nearest = BudgetCheck(nearest.key, check, nearest.level)
    yield nearest


def _numbers(limit: Limit[Amount] | Limit[float]) -> Limit[float]:
    return Limit[Amount | float](limit.fail, limit.warn).map(lambda v: v.value if isinstance(v, Amount) else v)


def _no_match(pattern: str, layers: Sequence[LayerCost], source: Budget | None) -> str:
    names = [layer.name for layer in layers]
    similar = get_close_matches(pattern.replace("*", ""), names, n=_SUGGESTED, cutoff=0.3) or names[:_SUGGESTED]
    line = None if source is None else source.line("layers", pattern)
    where = "" if source is None else f"{source.path}, line {line}: " if line else f"{source.path}: "
    return (
        f"{where}layers: '{pattern}' is the name of none of the {len(names)} layers; near it: {', '.join(similar)} "
        "(* stands for any characters)"
    )
