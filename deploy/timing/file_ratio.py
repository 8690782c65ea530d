"""How much longer one ONNX file takes than another, timed in turn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from slimsight.compress.progress import SILENT, Progress
from slimsight.export.runners import OnnxRunner

from .rounds import time_sessions
from .statistics import to_speedup

_ROUNDS: Final = 100
_SESSIONS: Final = 10
_WARMUP: Final = 1.0  # seconds, of each session


def time_file_ratio(
    file: Path, other: Path, images: NDArray[Any], *, threads: int = 1, seed: int = 0, progress: Progress = SILENT
) -> dict[str, float]:
    """Time of a call of ``file`` over that of ``other`` in ONNX Runtime on the CPU, one image a call.

    Args:
        images: (N, 3, H, W), uint8 or floating point, as both files take them.

    Returns:
        ``median``, and the ends ``low`` and ``high`` of its 95 % interval.

    Raises:
        ExportError: a file cannot be opened.
    """
    runners = {"file": OnnxRunner(file, threads), "other": OnnxRunner(other, threads)}
    found = time_sessions(
        runners, images, sessions=_SESSIONS, rounds=_ROUNDS, warmup=_WARMUP, seed=seed, progress=progress
    ).timings
    return asdict(to_speedup(found["file"].host, found["other"].host, seed=seed))
