"""The latency lab: models against each other in any runtime, with intervals that hold, and reasons for what cannot."""

from .result import BenchResult, BenchRow, Skipped
from .run import run_bench
from .sweep import Settings

__all__ = ["BenchResult", "BenchRow", "Settings", "Skipped", "run_bench"]
