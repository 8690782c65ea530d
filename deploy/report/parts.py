"""Parts of report.json: the base class; figures of explainers, saliency drift, dynamic variant, gates and latency."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from slimsight.compress.config import Count, NonNegative, Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0)]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured = Annotated[NonNegative | None, BeforeValidator(_finite_or_none)]  # None: NaN or infinite, never a pass


class ReportPart(Section):
    """A part of the report. Figures that were not measured are left out of the JSON where optional, else null."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # so that writing refuses them; not a silent null

    @model_serializer(mode="wrap")
    def _without_missing_figures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = {field.alias or name: field for name, field in type(self).model_fields.items()}
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or fields[key].is_required()}


class EstimateFigures(ReportPart):
    """Mean over ``images`` that define the figure, and its standard error; None where too few do."""

    mean: float | None = None
    standard_error: NonNegative | None = None
    images: Whole


class RankingFigures(ReportPart):
    """Evidence for VarSal's maps: KL in nats of the prediction once pixels are removed, lowest first.

    By share of the pixels ``removed``: ranked by the map (``kl``), by the distance from the image's centre, by the map
    of another image, and at random. ``spread``: median over images of a map's standard deviation over its pixels;
    ``variety``: of a pixel's over images; ``uncertainty``: mean of sqrt(nu); all in deviations of the prior.
    """

    removed: tuple[Share, ...]
    kl: tuple[NonNegative, ...]
    kl_centre: tuple[NonNegative, ...]
    kl_other: tuple[NonNegative, ...]
    kl_random: tuple[NonNegative, ...]
    spread: NonNegative
    variety: NonNegative
    uncertainty: NonNegative


class RouteFigures(ReportPart):
    """A route of the dynamic variant, judged by the information bottleneck (bits of the dense network).

    ``channels``: how many hold 90 % of the bits; ``covered``: share of those that the route opens;
    ``accepted``: share of the images whose choice opens enough of them.
    """

    route: str
    bits_per_pixel: NonNegative
    bits_per_channel: NonNegative
    channels: NonNegative
    open_channels: NonNegative
    covered: Share
    accepted: Share


class VerificationFigures(ReportPart):
    """Routes verified offline: cost and accuracy when the layers of rejected choices run dense instead."""

    images: Count
    accepted: Share
    macs: NonNegative
    macs_with_dense: NonNegative
    accuracy: Share
    accuracy_with_dense: Share
    routes: tuple[RouteFigures, ...]


class DynamicFigures(ReportPart):
    """The dynamic variant: MACs are means over validation images, heads included.

    ``masks``: by route, how many masks still differ. ``route_agreement``: share of the choices that the exported
    files make like PyTorch. The routed form is what ``latency`` times.
    """

    macs_max: Positive
    macs_mean: NonNegative
    val_accuracy: Share
    test_accuracy: Share | None
    masks: tuple[Count, ...]
    branches: Whole
    route_agreement: Share
    verification: VerificationFigures


Columns = tuple[NonNegative, ...]


class GateHistoryFigures(ReportPart):
    """Columns of equal length, a point each: means over the steps since the point before, ``step`` being the last.

    ``macs`` (under relaxed gates) and ``target`` are shares of the original's MACs, ``ce`` is in nats; ``residual`` is
    R_res of ISP Eq. 9 and ``steer`` the distance of explanations, where gates are steered.
    """

    step: tuple[Count, ...]
    macs: Columns
    target: Columns
    ce: Columns
    residual: Columns
    steer: Columns | None = None

    @model_validator(mode="after")
    def _one_length(self) -> GateHistoryFigures:
        lengths = {len(c) for c in (self.step, self.macs, self.target, self.ce, self.residual, self.steer or self.step)}
        if len(lengths) > 1:
            raise ValueError(f"columns of {sorted(lengths)} points; give one value per point in each column")
        if any(later <= before for before, later in pairwise(self.step)):
            raise ValueError("steps that do not rise; points stand in their order")
        return self


class PercentilesMs(ReportPart):
    """Times of single calls at ``percent`` of all calls, ms, in rising order: entry k of each belongs together."""

    percent: tuple[Annotated[float, Field(ge=0, le=100)], ...]
    original: tuple[Positive, ...]
    slim: tuple[Positive, ...]
    dynamic: tuple[Positive, ...] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> PercentilesMs:
        lengths = {len(times) for times in (self.original, self.slim, self.dynamic or self.percent)}
        if lengths != {len(self.percent)}:
            raise ValueError(f"{len(self.percent)} percentiles with times of {sorted(lengths)}")
        for name, column in self:
            if any(later < before for before, later in pairwise(column or ())):
                raise ValueError(f"'{name}' falls; percentiles stand in rising order")
        return self


class StatisticsFigures(ReportPart):
    """The finetuned model with its running batch-norm statistics and with exact ones; the better were kept.

    ``momentum``: given during finetuning to batch normalisations whose own is too small for the schedule. Without
    labels agreement with the original takes the place of accuracy, and losses are cross entropies with its predictions.
    """

    running_val_accuracy: Share | None
    running_val_loss: Measured = None
    recalibrated_val_accuracy: Share | None = None
    recalibrated_val_loss: Measured = None
    running_val_agreement: Share | None = None
    recalibrated_val_agreement: Share | None = None
    kept: Literal["running", "recalibrated"]
    momentum: Share | None = None


class TestAgreementFigures(ReportPart):
    """As ``AgreementFigures``, of the test images, which are read once."""

    top1: Share
    images: Count
    low: Share
    high: Share


class AgreementFigures(ReportPart):
    """Share of ``images`` validation images on which slim model and original predict the same class.

    ``low`` and ``high``: its 95 % interval (Wilson). ``chance``: what a model reaches that always gives the class that
    the original predicts most often. Where images have no labels also ``gated``: of the original with hard gates,
    before finetuning; and ``test``: of the test images.
    """

    top1: Share
    images: Count
    low: Share | None = None
    high: Share | None = None
    chance: Share | None = None
    gated: Share | None = None
    test: TestAgreementFigures | None = None


class BackboneFigures(ReportPart):
    """Tensors under a new head: how many the weights gave, and the names of those ``made`` new and ``left`` out."""

    taken: Count
    made: tuple[str, ...]
    left: tuple[str, ...] = ()


class TrainingFigures(ReportPart):
    """How the original was trained by the run; ``stages`` say how long that took."""

    epochs: Count
    steps: Count
    optimizer: str


class ModelInfo(ReportPart):
    """The classifier that was pruned: the file of its ``weights``, and its ``training`` where the run trained it."""

    name: str
    weights: str | None = None
    backbone: BackboneFigures | None = None
    training: TrainingFigures | None = None


class SigmaPx(ReportPart):
    """Spread of the selector's sigma over images, in pixels."""

    p10: NonNegative
    median: NonNegative
    p90: NonNegative


class SelectorFigures(ReportPart):
    """Evidence for the explainer: KL in nats of the masked prediction, and of its controls.

    ``kl_centred`` and ``kl_random`` put masks of the same sigmas at the image centre and at random;
    ``kl_centred_same_area`` and ``kl_random_same_area`` do so with masks of the same areas (a mask at the edge loses
    some of its own). ``gain_centred``, ``gain_random``: how much better the explainer is than these two, paired by
    image, with standard errors.
    ``kl_predicted_label`` asks with the predicted instead of the true label.
    """

    mean_area: Share
    sigma_px: SigmaPx
    kl: NonNegative
    kl_centred: NonNegative
    kl_centred_same_area: NonNegative | None = None
    kl_random: NonNegative
    kl_random_same_area: NonNegative | None = None
    gain_centred: float | None = None
    gain_centred_error: NonNegative | None = None
    gain_random: float | None = None
    gain_random_error: NonNegative | None = None
    kl_predicted_label: NonNegative | None = None


class ExplainerFigures(ReportPart):
    """The amortized explainer that the recipe asks for. ``used``: false where it was found to explain nothing.

    ``reason``: why it is not used; ``stage``: the one that found out; ``stopped_after`` and ``planned_steps``: where
    its training was stopped, if before its end; ``seconds_saved``: estimated time of the steps that were left.
    """

    kind: str
    used: bool
    reason: str | None = None
    stage: str | None = None
    stopped_after: Whole | None = None
    planned_steps: Whole | None = None
    seconds_saved: NonNegative | None = None
