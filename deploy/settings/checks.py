"""Recipe section ``checks``: what a run's verdict holds the slim model to, beside its budget."""

from __future__ import annotations

from pydantic import Field

from slimsight.compress.config import Section
from slimsight.compress.config.shares import AccuracyDrop, LeastAgreement


class ChecksConfig(Section):
    """What the verdict holds the slim model to, beside its budget (``checks``); no result depends on it.

    Under any limit on accuracy, a slim model that is not better than chance fails. Without labels (``data.labels:
    none``) nothing is known of accuracy, and agreement with the original is judged in its place.
    """

    accuracy_drop: AccuracyDrop | None = Field(
        default=0.02,
        description="the most points of validation accuracy lost against the original (2% or 0.02); null: accuracy is "
        "measured, not judged, as with --no-accuracy-check",
        examples=["2%", 0.02],
    )
    agreement: LeastAgreement | None = Field(
        default=0.9,
        description="data.labels none: the least share of validation images on which slim model and original predict "
        "the same class (90% or 0.9); null: agreement is measured, not judged, as with --no-accuracy-check",
        examples=["90%", 0.9],
    )
