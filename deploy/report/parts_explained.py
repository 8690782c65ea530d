"""Parts of report.json on explanations: how far they moved, beside what chance gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slimsight.compress.config import NonNegative

from .parts import EstimateFigures, ReportPart, Share, Whole


class DegenerateFigures(ReportPart):
    """Counts of degenerate maps: one value everywhere (``constant``), or nothing above zero (``zero``)."""

    constant: Whole
    zero: Whole


class DegenerateMaps(ReportPart):
    """Degenerate maps of each model."""

    original: DegenerateFigures
    slim: DegenerateFigures


class DriftedImage(ReportPart):
    """One validation image, by its index; figures that its maps do not define are left out."""

    index: Whole
    center_px: NonNegative | None = None
    region_iou: Share | None = None
    spearman: Annotated[float, Field(ge=-1.001, le=1.001)] | None = None
    kl: NonNegative | None = None
    moved: bool | None = None


class MapDriftFigures(ReportPart):
    """Original against slim on ``images`` validation images.

    ``center_px``: distance of centres, pixels; ``region_iou``: overlap of the regions with half of the mass;
    ``spearman``: rank correlation of pixels; ``kl``: of the maps as distributions, nats; ``moved``: share of images
    whose top region (a tenth of the mass) went elsewhere, or whose centre moved by an eighth of the side or more;
    ``lost``: share on which the map of exactly one model is degenerate; ``worst`` first.
    """

    images: Whole
    center_px: EstimateFigures
    region_iou: EstimateFigures
    spearman: EstimateFigures
    kl: EstimateFigures
    moved: EstimateFigures
    lost: Share
    degenerate: DegenerateMaps
    worst: tuple[DriftedImage, ...] = ()


class ChanceDriftFigures(ReportPart):
    """Drift from the original's explanations to ones that know nothing of their image; as ``SaliencyFigures``."""

    center_drift_px: NonNegative
    sigma_drift_px: NonNegative
    iou: Share
    images: Whole


class SaliencyChanceFigures(ReportPart):
    """The chance level of ``SaliencyFigures``.

    ``constant``: the mean explanation for every image; ``other``: that of an image of another class; ``share``:
    (1 - iou) / (1 - iou of ``constant``), 0 where nothing moved, 1 where the slim model's explanation is no nearer than
    the mean one; ``r2``: share of the variance of the original's explanations that the slim model's have.
    """

    constant: ChanceDriftFigures
    other: ChanceDriftFigures
    share: EstimateFigures
    r2: float | None = None


class AttributionFigures(ReportPart):
    """Original against slim on ``images`` validation images by an explainer that steers nothing (Grad-CAM).

    ``region_iou``, ``spearman``, ``moved``: see ``MapDriftFigures``; ``chance``: overlap of the original's map with
    its map of another image; ``share``: (1 - overlap) / (1 - chance), 0 where nothing moved, 1 where the slim model's
    map is no nearer than another image's. ``reason``: why nothing was measured.
    """

    explainer: str
    images: Whole = 0
    region_iou: EstimateFigures | None = None
    spearman: EstimateFigures | None = None
    moved: EstimateFigures | None = None
    chance: EstimateFigures | None = None
    share: EstimateFigures | None = None
    reason: str | None = None
