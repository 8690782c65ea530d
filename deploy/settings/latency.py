"""Section of a recipe (``latency``) and of a budget file (``measure``): how latency is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slimsight.compress.amounts import MOST_ROUNDS, MOST_SESSIONS
from slimsight.compress.config import BatchSize, Section, Threads

DEFAULT_RUNTIME = "onnxruntime-cpu"


class LatencyConfig(Section):
    """How latency is measured (``latency``)."""

    runtime: str = Field(
        default=DEFAULT_RUNTIME,
        min_length=1,
        max_length=64,
        description="runtime of ONNX files, as `slimsight doctor` lists them; openvino:GPU names a device",
    )
    threads: Threads = Field(default=1, description="threads of the runtime")
    batch: BatchSize = Field(default=1, description="images per call")
    rounds: Annotated[int, Field(ge=20, le=MOST_ROUNDS)] = Field(default=200, description="timed calls of each model")
    sessions: Annotated[int, Field(ge=1, le=MOST_SESSIONS)] = Field(
        default=10, description="how often the models are opened anew; rounds are shared out"
    )
    warmup_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=5.0, description="limit; warm-up ends once times are steady"
    )
