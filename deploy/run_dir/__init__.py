"""The run directory: its paths, its lock, and the records of finished stages.

Recorded files are synced and checksummed, so that they survive a power cut: see docs/durability.md.
"""

from .paths import MARKER
from .records import StageRecord
from .run import RECIPE, REPORT, RunDir, is_run, open_run, read_run

__all__ = ["MARKER", "RECIPE", "REPORT", "RunDir", "StageRecord", "is_run", "open_run", "read_run"]
