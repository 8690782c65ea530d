"""``slimsight check``: a run, a file or a factory held against a budget file, and what changed since another one."""

from .check import Asked, run_check
from .result import CheckResult

__all__ = ["Asked", "CheckResult", "run_check"]
