"""Parts of report.json that are drawn: how gates learned, and how times of calls are distributed."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from slimsight.compress.config import Count, NonNegative, Positive

from .part import Part

Columns = tuple[NonNegative, ...]


class GateHistoryFigures(Part):
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
            raise ValueError(f"columns of {sorted(lengths)} points; every column has one value per point")
        if any(later <= before for before, later in pairwise(self.step)):
            raise ValueError("steps that do not rise; points stand in their order")
        return self


class PercentilesMs(Part):
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
