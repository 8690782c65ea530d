"""``slimsight bench``: latency of several models in several runtimes, with intervals, and why a model could not run."""

from .result import BenchResult, BenchRow, Skipped
from .sweep import BenchSettings, run_bench

__all__ = ["BenchResult", "BenchRow", "BenchSettings", "Skipped", "run_bench"]
