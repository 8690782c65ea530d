"""Why a run goes on without its explainer: recorded by the stage that found out, told, and refused where required."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from slimsight.compress.amounts import as_duration
from slimsight.compress.errors import ExplainerRefused, TrainingError
from slimsight.compress.progress import Progress

from ..settings.recipe import Recipe

_KEY = "refused"
"""Of a refusal in the metrics of a stage."""


@dataclass(frozen=True)
class Refusal:
    """An explainer that cannot be used. ``stage``: the one that found out; ``why``: a sentence with its figures.

    Attributes:
        step, steps: when its training was stopped, of how many planned steps; None: it learned to the end.
        seconds_saved: estimated time of the steps that were left.
    """

    stage: str
    why: str
    step: int | None = None
    steps: int | None = None
    seconds_saved: float | None = None

    @classmethod
    def of(cls, stage: str, error: ExplainerRefused | TrainingError) -> Refusal:
        """Of an explainer that was refused, or whose training diverged."""
        if isinstance(error, ExplainerRefused):
            return cls(stage, str(error), error.step, error.steps, error.seconds_saved)
        return cls(stage, str(error))

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any]) -> Refusal | None:
        """The refusal in a stage's metrics; None: there is none."""
        return cls(**metrics[_KEY]) if _KEY in metrics else None

    def to_metrics(self) -> dict[str, Any]:
        """For the record of a stage."""
        return {_KEY: {name: value for name, value in asdict(self).items() if value is not None}}

    @property
    def explains(self) -> bool:
        """Whether the explainer can still be compared between models: only its use for steering was refused."""
        return self.stage == "targets"


def report_refusal(recipe: Recipe, stage: str, metrics: Mapping[str, Any], progress: Progress) -> None:
    """Tell why ``stage`` refused the explainer, if it did, and how the run goes on.

    Raises:
        ExplainerRefused: the recipe cannot do without (``explainer.required``, or nothing else ranks the channels). The
            stage is recorded: run again with ``explainer.required: false``, the run goes on from here.
    """
    refusal = Refusal.of_metrics(metrics)
    if refusal is None or refusal.stage != stage:  # later stages repeat it
        return
    steered = recipe.gates.explainer is not None
    if recipe.explainer.required:
        raise ExplainerRefused(
            f"{refusal.why}; explainer.required is true: set it to false to go on from here without "
            f"{'steering' if steered else 'the explainer'}"
        )
    if steered and recipe.gates.class_weight == 0:
        raise ExplainerRefused(
            f"{refusal.why}; gates.class_weight is 0, so nothing but explanations ranks the channels: raise it above 0 "
            "to go on from here without steering"
        )
    progress.note(f"{stage}: the explainer is not used: {refusal.why}")
    if refusal.step is not None and refusal.steps is not None:
        saved = "" if refusal.seconds_saved is None else f", about {as_duration(refusal.seconds_saved)} saved"
        progress.note(f"{stage}: stopped after step {refusal.step:,} of {refusal.steps:,}{saved}")
    how = "the gates learn without steering, as with gates.steer none" if steered else "channels are ranked as before"
    progress.note(f"the run goes on: {how}; {_UNMEASURED if not refusal.explains else 'explanations are compared'}")


_UNMEASURED = "how far explanations move is not measured"
