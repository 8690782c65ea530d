"""Part of report.json: what an explainer is worth whose maps rank pixels."""

from __future__ import annotations

from slimsight.compress.config import NonNegative

from .part import Part, Share


class RankingFigures(Part):
    """Whether VarSal's maps say something: KL in nats of the prediction once pixels are gone, lowest first.

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
