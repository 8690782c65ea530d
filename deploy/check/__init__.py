"""``slimsight check``: a run, a file or a factory held against a budget file, and what changed since another one."""

from .check import CheckRequest, run_check
from .result import CheckResult

__all__ = ["CheckRequest", "CheckResult", "run_check"]
