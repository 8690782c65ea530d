"""The run directory: where everything is, which stages still hold, and who may write it.

What was synced survives a power cut, and every file that was recorded is known by its checksum: see docs/durability.md.
"""

from .places import MARKER
from .records import StageRecord
from .run import RECIPE, REPORT, RunDir, is_run, open_run, read_run

__all__ = ["MARKER", "RECIPE", "REPORT", "RunDir", "StageRecord", "is_run", "open_run", "read_run"]
