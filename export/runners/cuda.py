"""CUDA streams, events and availability, by torch: what the runners of a GPU share."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from slimsight.compress.errors import RuntimeMissing

GPU_INDEX = 0


def why_no_gpu() -> str | None:
    """Why nothing runs on a GPU here; None where torch sees one."""
    return None if torch.cuda.is_available() else "no CUDA device is available on this machine"


@cache
def gpu_stream() -> Any:
    """The stream of torch's that sessions of ONNX Runtime compute on, so that torch's events time the graph.

    Raises:
        RuntimeMissing: torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeMissing("torch sees no GPU here (no CUDA device, or no driver for it): use the CPU's provider")
    stream: Any = torch.cuda.Stream  # untyped in torch
    return stream(GPU_INDEX)  # not the default stream: its handle is 0, which means 'none' to a provider


def event_pair() -> tuple[Any, Any]:
    """Two CUDA events, to record before and after what is timed."""
    event: Any = torch.cuda.Event  # untyped in torch
    return event(enable_timing=True), event(enable_timing=True)
