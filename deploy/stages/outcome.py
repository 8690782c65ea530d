"""What a stage gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Figures for the report (JSON values) and the files that later stages read."""

    metrics: dict[str, Any]
    files: Sequence[Path]
