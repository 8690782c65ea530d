"""Parts of report.json: drift of saliency maps, comparable between explainers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slimsight.compress.config import NonNegative

from .part import Part, Share, Whole


class EstimateFigures(Part):
    """Mean over ``images`` that define the figure, and its standard error; None where too few do."""

    mean: float | None = None
    standard_error: NonNegative | None = None
    images: Whole


class DegenerateFigures(Part):
    """Maps that say nothing, by how: one value everywhere, or nothing above zero."""

    constant: Whole
    zero: Whole


class DegenerateMaps(Part):
    """Maps that say nothing, by model."""

    original: DegenerateFigures
    slim: DegenerateFigures


class DriftedImage(Part):
    """One validation image, by its index; figures that its maps do not define are left out."""

    index: Whole
    center_px: NonNegative | None = None
    region_iou: Share | None = None
    spearman: Annotated[float, Field(ge=-1.001, le=1.001)] | None = None
    kl: NonNegative | None = None
    moved: bool | None = None


class MapDriftFigures(Part):
    """Original against slim on ``images`` validation images.

    ``center_px``: distance of centres, pixels; ``region_iou``: overlap of the regions with half of the mass;
    ``spearman``: rank correlation of pixels; ``kl``: of the maps as distributions, nats; ``moved``: share of images
    whose top region (a tenth of the mass) went elsewhere, or whose centre moved by an eighth of the side or more;
    ``lost``: share on which exactly one of the models has a map that says something; ``worst`` first.
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
