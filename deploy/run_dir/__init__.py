"""The run directory: where everything is, which stages still hold, and who may write it."""

from .opening import open_run, read_run
from .places import MARKER
from .records import ARTEFACTS, StageRecord
from .run import RunDir

__all__ = ["ARTEFACTS", "MARKER", "RunDir", "StageRecord", "open_run", "read_run"]
