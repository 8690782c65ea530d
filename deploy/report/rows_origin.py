"""Sentences of a report on what a run was given: the original's weights, and what an image goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slimsight.compress.amounts import as_duration

from .schema import Report
from .units import (
    plural,
)

_NAMED: Final = 4


def preprocessing(report: Report) -> str:
    """What an image goes through before the exported files, in a sentence; "" in reports of earlier versions."""
    made = None if report.data is None else report.data.preprocessing
    if made is None:
        return ""
    by = " / ".join(", ".join(f"{value:.4g}" for value in values) for values in (made.mean, made.std))
    return (
        f"Every image: {made.words}; the files take {made.channels} in {made.range}, {made.layout}, and normalisation "
        f"(mean / std {by}) is {made.normalisation}."
    )


def original(report: Report) -> str:
    """Where the original's weights come from, and how it was trained; "" in reports that do not say."""
    model = report.model
    if model is None or (model.weights is None and model.training is None):
        return ""
    parts = ["no weights were given" if model.weights is None else f"weights from {model.weights}"]
    if model.backbone is not None:
        taken = plural(model.backbone.taken, "tensor")
        parts = [f"{taken} from {model.weights}, made new: {_names(model.backbone.made)}"]
        if model.backbone.left:
            parts.append(f"left out: {_names(model.backbone.left)}")
    if (training := model.training) is not None:
        seconds = next((stage.seconds for stage in report.stages if stage.name == "classifier"), None)
        took = "" if seconds is None else f", in {as_duration(seconds)}"
        name = {"sgd": "SGD", "adamw": "AdamW"}.get(training.optimizer, training.optimizer)
        length = f"{plural(training.epochs, 'epoch')}, {plural(training.steps, 'step')}"
        parts.append(f"trained by this run with {name} for {length}{took}")
    return f"The original: {'; '.join(parts)}."


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
