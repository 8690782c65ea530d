"""``slimsight check``: a run, a file or a model factory against a budget file, compared with another target."""

from .check import CheckRequest, run_check
from .result import CheckResult

__all__ = ["CheckRequest", "CheckResult", "run_check"]
