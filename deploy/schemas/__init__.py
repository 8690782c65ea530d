"""JSON Schema of recipes and budget files, for editors: shipped as files, generated from the code.

``python -m slimsight.deploy.schemas.generate`` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("recipe", "budget")


def schema_file(name: str) -> Path:
    """Where the schema of ``name`` is."""
    assert name in NAMES
    return Path(__file__).with_name(f"{name}.schema.json")
