"""What a stage is made of, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def fingerprint(parts: Mapping[str, Any]) -> str:
    """sha256 of ``parts`` as canonical JSON: equal for equal content, whatever the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a fingerprint cannot be made of {type(value).__name__}")
