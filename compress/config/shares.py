"""Shares that a limit may name: of images (agreement), and points of accuracy (drop); numbers or percentages."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from ..amounts import number_pattern, read_number


def read_share(value: object, *, what: str, example: str) -> float:
    """A share 0..1, from a number or a percentage."""
    parsed = read_number(value)
    number = math.nan if parsed is None else parsed[0] / (100 if parsed[1] == "%" else 1)
    if parsed is None or parsed[1] not in ("", "%") or not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not a valid {what}: give a share from 0 to 1 or a percentage ({example})")
    return number


def read_drop(value: object) -> float:
    """Points of accuracy: ``2%`` or 0.02 for two of them."""
    drop = read_share(value, what="accuracy drop", example="0.01 or '1%' for one point")
    if drop == 1:
        raise ValueError(f"{value!r} is a drop by 100 points: write '1%' (or 0.01) for one point")
    return drop


_DROP = [
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": "string", "pattern": number_pattern(["", "%"])},
]
AccuracyDrop = Annotated[float, BeforeValidator(read_drop), WithJsonSchema({"anyOf": _DROP})]
"""A drop of accuracy at or above 0 and below 1; may be written as ``2%``."""


def read_agreement(value: object) -> float:
    """A share of images: ``90%`` or 0.9."""
    return read_share(value, what="agreement", example="0.9 or '90%'")


_AGREEMENT = [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": number_pattern(["", "%"])}]
LeastAgreement = Annotated[float, BeforeValidator(read_agreement), WithJsonSchema({"anyOf": _AGREEMENT})]
"""A share of images from 0 to 1; may be written as ``90%``."""
