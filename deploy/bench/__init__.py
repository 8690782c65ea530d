"""The latency lab: models against each other in any runtime, with intervals that hold, and reasons for what cannot."""

from .result import BenchResult, BenchRow, Skipped
from .sweep import BenchSettings, run_bench

__all__ = ["BenchResult", "BenchRow", "BenchSettings", "Skipped", "run_bench"]
