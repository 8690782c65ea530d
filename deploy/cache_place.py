"""Where decoded images live."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Where decoded images live, shared by all runs: ``$SLIMSIGHT_CACHE``, else the user's cache folder."""
    if place := os.environ.get("SLIMSIGHT_CACHE"):
        return Path(place)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slimsight"
