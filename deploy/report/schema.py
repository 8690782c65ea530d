"""report.json, schema 1: all figures of a run. Users' programs read it, so names stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, model_validator

from slimsight.compress.amounts import Amount
from slimsight.compress.config import Count, NonNegative, Positive

from .device import DeviceFigures
from .inputs import DataFigures
from .int8 import Int8Figures
from .parts import (
    AgreementFigures,
    DynamicFigures,
    ExplainerFigures,
    GateHistoryFigures,
    Measured,
    ModelInfo,
    PercentilesMs,
    RankingFigures,
    ReportPart,
    SelectorFigures,
    Share,
    StatisticsFigures,
    Whole,
)
from .parts_explained import AttributionFigures, MapDriftFigures, SaliencyChanceFigures

SCHEMA: Final = 1

Unit = Literal[
    "MACs",
    "parameters",
    "bytes",
    "accuracy",
    "points",
    "error",
    "times",
    "rows",
    "ms",
    "share",
    "px",
    "overlap",
    "images",
    "growth",
    "dB",
]


class ModelFigures(ReportPart):
    """Costs and accuracies of a model. MACs at batch 1, bytes of the weights. Accuracies are None without labels."""

    macs: Count
    params: Count
    size_bytes: Count
    val_accuracy: Share | None
    test_accuracy: Share | None


class GatedFigures(ReportPart):
    """The original with hard gates: the slim model before recalibration and finetuning."""

    val_accuracy: Share


class BudgetFigures(ReportPart):
    """The limits of the recipe, those that it has; ``macs_used`` = slim.macs / macs_max.

    Of latency either ms or a ratio to the original's median in the same row. ``latency_precision``: of the slim model's
    file that it limits.
    """

    macs_max: Annotated[int | float, Field(gt=0)] | None = None
    macs_used: NonNegative | None = None
    params_max: Annotated[int | float, Field(gt=0)] | None = None
    size_max: Annotated[int | float, Field(gt=0)] | None = None
    latency_ms_max: Positive | None = None
    latency_ratio_max: Positive | None = None
    latency_precision: Literal["fp32", "int8"] = "fp32"

    @property
    def latency_max(self) -> Amount | None:
        """The limit on latency, in ms or as a ratio."""
        if self.latency_ratio_max is not None:
            return Amount(self.latency_ratio_max, relative=True)
        return None if self.latency_ms_max is None else Amount(self.latency_ms_max, relative=False)


class FrozenGroupFigures(ReportPart):
    """A channel group that kept all its channels, and why."""

    name: str
    reason: str


class Exactness(ReportPart):
    """Evidence that surgery removed exactly what the gates closed."""

    gated_vs_slim_max_rel: Measured
    cost_model_macs: Whole
    fvcore_macs: Whole
    groups: Whole
    frozen_groups: tuple[FrozenGroupFigures, ...] = ()


class ParityRow(ReportPart):
    """One artefact in one runtime against the slim model in PyTorch: differences of logits."""

    artifact: str
    runtime: str
    precision: str
    batch: Count
    max_abs: Measured
    p99_abs: Measured
    top1_agreement: Share
    passed: bool
    median_abs: Measured = None
    first_difference: str | None = None

    @model_validator(mode="after")
    def _passes_only_with_a_number(self) -> ParityRow:
        if self.passed and self.max_abs is None:
            raise ValueError("a parity row without a finite max_abs cannot have passed")
        return self


class QuantilesMs(ReportPart):
    """Milliseconds per batch."""

    median: Positive
    p90: Positive
    p99: Positive


class Interval(ReportPart):
    """A ratio of medians with its 95 % bootstrap interval; above 1 the slim model is faster."""

    median: Positive
    low: Positive
    high: Positive


class LatencyFigures(ReportPart):
    """Original and slim, timed in turns in one runtime; ``int8_speedup``: of the INT8 file, over the FP32 original."""

    runtime: str
    precision: str
    threads: Annotated[int, Field(ge=0)]
    batch: Count
    original_ms: QuantilesMs
    slim_ms: QuantilesMs
    dynamic_ms: QuantilesMs | None = None
    percentiles_ms: PercentilesMs | None = None
    speedup: Interval
    int8_ms: QuantilesMs | None = None
    int8_speedup: Interval | None = None


class SaliencyFigures(ReportPart):
    """Drift of explanations from the original to the slim model: means over ``images``, pixels.

    ``iou``: sum of minima / sum of maxima of the two maps; ``chance``: what explanations that know nothing of their
    image have; ``area``: mean of the slim model's maps; ``maps``: figures that any explainer has; ``selector`` or
    ``ranking``: evidence for the explainer on the original.
    """

    explainer: str
    center_drift_px: NonNegative
    sigma_drift_px: NonNegative | None = None
    iou: Share
    images: Whole | None = None
    chance: SaliencyChanceFigures | None = None
    area: Share | None = None
    maps: MapDriftFigures | None = None
    selector: SelectorFigures | None = None
    ranking: RankingFigures | None = None


class ChannelsKept(ReportPart):
    """Channels of one group that the slim model keeps."""

    group: str
    total: Count
    kept: Whole

    @model_validator(mode="after")
    def _kept_of_total(self) -> ChannelsKept:
        if self.kept > self.total:
            raise ValueError(f"group '{self.group}' keeps {self.kept} of {self.total} channels")
        return self


class GatesFigures(ReportPart):
    """How channels were ranked. ``soft_macs``: expected under soft gates; ``hard_macs``: of the plan.

    ``steer``: what was done; ``steer_asked``: what the recipe asked for, where that is something else (``explainer``
    says why). ``steps``: all that were learned; ``extension``: those beyond ``gates.steps``. ``converged``: whether the
    gates came to the budget by themselves; if not, the plan was selected by their scores as they were.
    """

    steer: str
    steer_asked: str | None = None
    steps: Whole | None = None
    extension: Whole | None = None
    soft_macs: NonNegative | None = None
    hard_macs: Whole | None = None
    converged: bool | None = None
    history: GateHistoryFigures | None = None


class StageFigures(ReportPart):
    """One stage of the run; seconds it took when it ran, which is earlier when ``reused``."""

    name: str
    seconds: NonNegative
    reused: bool


class Check(ReportPart):
    """A limit and a measured value; None: the figure is missing, and the check failed.

    ``bound``: ``limit`` is the most (``max``), the least (``min``) or the only value (``equal``) allowed;
    ``remedy``: what to change so that it passes, from facts of the run.
    """

    name: str
    limit: int | float
    value: int | float | None
    passed: bool
    bound: Literal["max", "min", "equal"] = "max"
    unit: Unit
    reason: str | None = None
    remedy: str | None = None

    @model_validator(mode="after")
    def _passes_only_with_a_value(self) -> Check:
        if self.passed and self.value is None:
            raise ValueError(f"check '{self.name}' has no value and cannot have passed")
        return self


class Verdict(ReportPart):
    """All checks together; without a single check nothing has passed.

    ``accuracy_judged``: whether a check is of accuracy; None: the report of an earlier version, whose verdict was not,
    or of images without labels, where ``agreement_judged`` says it of agreement with the original.
    ``notes``: what was not done as the recipe asks, a sentence each.
    """

    passed: bool
    checks: tuple[Check, ...]
    accuracy_judged: bool | None = None
    notes: tuple[str, ...] | None = None
    agreement_judged: bool | None = None

    @model_validator(mode="after")
    def _follows_from_its_checks(self) -> Verdict:
        if self.passed != (bool(self.checks) and all(check.passed for check in self.checks)):
            raise ValueError("'passed' does not follow from the checks")
        return self

    @classmethod
    def of(
        cls,
        checks: Iterable[Check],
        *,
        accuracy_judged: bool | None = None,
        agreement_judged: bool | None = None,
        notes: Iterable[str] = (),
    ) -> Verdict:
        """The verdict that follows from ``checks``."""
        kept = tuple(checks)
        return cls(
            passed=bool(kept) and all(check.passed for check in kept),
            checks=kept,
            accuracy_judged=accuracy_judged,
            agreement_judged=agreement_judged,
            notes=tuple(notes) or None,
        )

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


class Report(ReportPart):
    """report.json. ``recipe`` is the recipe's file name; ``created`` carries its time zone."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    recipe: str
    created: AwareDatetime
    versions: dict[str, str]
    device: str
    seed: int
    model: ModelInfo | None = None
    data: DataFigures | None = None
    original: ModelFigures
    slim: ModelFigures
    agreement: AgreementFigures | None = None
    gated: GatedFigures | None = None
    statistics: StatisticsFigures | None = None
    gates: GatesFigures | None = None
    explainer: ExplainerFigures | None = None
    budget: BudgetFigures
    exactness: Exactness
    channels: tuple[ChannelsKept, ...] = ()
    dynamic: DynamicFigures | None = None
    parity: tuple[ParityRow, ...] = ()
    latency: tuple[LatencyFigures, ...] = ()
    int8: Int8Figures | None = None
    devices: tuple[DeviceFigures, ...] | None = None
    saliency: SaliencyFigures | None = None
    attribution: AttributionFigures | None = None
    stages: tuple[StageFigures, ...] = ()
    verdict: Verdict

    @model_validator(mode="after")
    def _knows_accuracy_or_agreement(self) -> Report:
        known = self.original.val_accuracy is not None and self.slim.val_accuracy is not None
        if self.labelled and not known:
            raise ValueError("validation accuracies are null, but data.labels is not none")
        if not self.labelled and (known or self.agreement is None):
            raise ValueError("data.labels is none: there must be an agreement, and no accuracies")
        return self

    @property
    def labelled(self) -> bool:
        """Whether its images had labels, so that accuracies are known."""
        return self.data is None or self.data.labels != "none"
