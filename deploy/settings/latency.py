"""Section of a recipe (``latency``) and of a budget file (``measure``): how latency is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slimsight.compress.config import Count, Positive, Section


class LatencyConfig(Section):
    """How latency is measured (``latency``)."""

    threads: Count = Field(default=1, description="threads of the runtime")
    batch: Count = Field(default=1, description="images per call")
    rounds: Annotated[int, Field(ge=20)] = Field(default=200, description="timed calls of each model")
    sessions: Count = Field(default=10, description="how often the models are opened anew; rounds are shared out")
    warmup_seconds: Positive = Field(default=5.0, description="limit; warm-up ends once times are steady")
