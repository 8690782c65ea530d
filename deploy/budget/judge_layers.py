"""Limits of single layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import ConfigError
from slimsight.export.costs.layers import LayerCost

from ..report.parts import EstimateFigures
from ..report.schema import Unit
from .changes import LayerChange
from .limit import Limit
from .schema import Budget, DriftLimits, LayerLimits
from .verdict import Judged, TargetFigures, judged

NOTHING_AGAINST: Final = "there is nothing to compare with: name it with --against"
_NO_LAYERS: Final = "the run has no slim/model.onnx that its layers could be read from; export it to onnx"
_NEAR: Final = 3
_UNITS: Final[Mapping[str, Unit]] = {"macs": "MACs", "params": "parameters", "growth": "growth"}


def layers_judged(
    figures: TargetFigures,
    limits: Mapping[str, LayerLimits],
    changes: Sequence[LayerChange] | None,
    source: Budget | None,
) -> Iterator[Judged]:
    """A check for each layer beyond a limit; where none is, one check for the layer that comes nearest to it.

    Raises:
        ConfigError: a pattern that is the name of no layer.
    """
    by_name = {change.name: change for change in changes or ()}
    for pattern, wanted in limits.items():
        if figures.layers is None:
            for name in sorted(wanted.model_fields_set):
                limit = getattr(wanted, name)
                numbers = limit if name == "growth" else _numbers(limit)
                key, unit = ("layers", pattern, name), _UNITS[name]
                yield judged(key, f"{name} of {pattern}", numbers, None, unit, bound="max", reason=_NO_LAYERS)
            continue
        matched = [layer for layer in figures.layers if fnmatchcase(layer.name, pattern)]
        if not matched:
            raise ConfigError(_nothing(pattern, figures.layers, source))
        # What was changed itself comes before what only followed.
        matched.sort(key=lambda layer: -max(by_name[layer.name].own, 0) if layer.name in by_name else 0)
        if wanted.macs is not None:
            yield from _beyond(
                [
                    _of(("layers", pattern, "macs"), "MACs", layer, _numbers(wanted.macs), layer.macs, "MACs", by_name)
                    for layer in matched
                ],
                pattern,
            )
        if wanted.params is not None:
            key, numbers = ("layers", pattern, "params"), _numbers(wanted.params)
            yield from _beyond(
                [_of(key, "parameters", layer, numbers, layer.params, "parameters", by_name) for layer in matched],
                pattern,
            )
        if wanted.growth is not None:
            key, limit = ("layers", pattern, "growth"), wanted.growth
            if changes is None:
                name = f"growth of {pattern}"
                yield judged(key, name, limit, None, "growth", bound="max", reason=NOTHING_AGAINST)
                continue
            grown = [
                _of(key, "growth", layer, limit, _growth(by_name.get(layer.name)), "growth", by_name)
                for layer in matched
            ]
            yield from _beyond(grown, pattern)


def _of(
    key: tuple[str, ...],
    what: str,
    layer: LayerCost,
    limit: Limit[float],
    value: float | None,
    unit: Unit,
    changes: Mapping[str, LayerChange],
) -> Judged:
    change = changes.get(layer.name)
    reason = None if change is None or change.growth <= 0 else change.why
    return judged(key, f"{what} of {layer.name}", limit, value, unit, bound="max", reason=reason)


def _growth(change: LayerChange | None) -> float | None:
    """Relative; None of a layer that was not there before."""
    if change is None or change.after is None:
        return 0.0
    return None if change.before is None else change.after.macs / change.before.macs - 1


def _beyond(found: Sequence[Judged], pattern: str) -> Iterator[Judged]:
    beyond = [item for item in found if item.status != "ok"]
    if beyond:
        yield from beyond
        return
    nearest = max(found, key=lambda item: item.check.value or 0.0)
    if len(found) > 1:
        name = f"{nearest.check.name} (most of {len(found)} in {pattern})"
        check = nearest.check.model_copy(update={"name": name, "reason": None})
        nearest = Judged(nearest.key, check, nearest.level)
    yield nearest


def _numbers(limit: Limit[Amount]) -> Limit[float]:
    return Limit(*(None if level is None else level.value for level in (limit.fail, limit.warn)))


def _nothing(pattern: str, layers: Sequence[LayerCost], source: Budget | None) -> str:
    names = [layer.name for layer in layers]
    near = get_close_matches(pattern.replace("*", ""), names, n=_NEAR, cutoff=0.3) or names[:_NEAR]
    line = None if source is None else source.line("layers", pattern)
    place = "" if source is None else f"{source.path}, line {line}: " if line else f"{source.path}: "
    return (
        f"{place}layers: '{pattern}' is the name of none of the {len(names)} layers; near it: {', '.join(near)} "
        "(* stands for any characters)"
    )


_NO_EXPLAINER: Final = (
    "the run has no explainer, so nothing is known of its saliency; set explainer.enabled and run again"
)
_OLD: Final = "the report has no such figure; run 'slimsight run' again to measure it"
_UNDEFINED: Final = "no image defines it: maps of one of the models say nothing"


def drift_judged(figures: TargetFigures, limits: DriftLimits) -> Iterator[Judged]:
    """A check per limit, of the mean over images.

    Lost explanations are always checked: means are over the images that still have one.
    """
    found = None if figures.report is None else figures.report.saliency
    maps = None if found is None else found.maps
    without = _NO_EXPLAINER if found is None else _OLD
    if figures.report is None:
        without = f"{figures.kind} has no explanations to compare: check the run that made it, or remove the line"

    def mean(figure: EstimateFigures | None) -> tuple[float | None, str | None]:
        if figure is None:
            return None, without
        return figure.mean, _UNDEFINED if figure.mean is None else None

    def key(name: str) -> tuple[str, str]:
        return "saliency_drift", name

    if limits.center_px is not None:
        value = None if found is None else found.center_drift_px
        reason = without if found is None else None
        name = "saliency drift, centre"
        yield judged(key("center_px"), name, limits.center_px, value, "px", bound="max", reason=reason)
    if limits.iou is not None:
        value = None if found is None else found.iou
        reason = without if found is None else None
        name = "saliency drift, overlap of maps"
        yield judged(key("iou"), name, limits.iou, value, "overlap", bound="min", reason=reason)
    if limits.region_iou is not None:
        value, reason = mean(None if maps is None else maps.region_iou)
        name = "saliency drift, overlap of regions"
        yield judged(key("region_iou"), name, limits.region_iou, value, "overlap", bound="min", reason=reason)
    if limits.moved is not None:
        value, reason = mean(None if maps is None else maps.moved)
        name = "saliency drift, top region moved"
        yield judged(key("moved"), name, limits.moved, value, "images", bound="max", reason=reason)
    if limits.lost is not None or maps is not None:
        value, reason = (None, without) if maps is None else (maps.lost, None)
        name = "saliency drift, explanation lost"
        yield judged(key("lost"), name, limits.lost or Limit(0.0), value, "images", bound="max", reason=reason)
