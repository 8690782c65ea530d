"""Base class of recipe sections, and constrained number types (``Fraction``, ``Share``, ``Images`` ...)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ..amounts import MOST_BATCH, MOST_SIDE, MOST_THREADS, number_pattern, read_number

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Million = Annotated[int, Field(ge=1, le=1_000_000)]
"""A count of at most a million."""
Side = Annotated[int, Field(ge=8, le=MOST_SIDE)]
"""Of an image, pixels."""
Epochs = Annotated[int, Field(ge=1, le=100_000)]
BatchSize = Annotated[int, Field(ge=1, le=MOST_BATCH)]
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]


def _read_share(value: object) -> float:
    """Parse a share: 0.1 or "10%"."""
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "%"):
        raise ValueError(f"{value!r} is not a valid share: give one above 0 and below 1, such as 0.1 or 10%")
    share = parsed[0] / 100 if parsed[1] else parsed[0]
    if not 0 < share < 1:
        raise ValueError(f"{value!r} is not above 0 and below 1 (100%): give a share such as 0.1 or 10%")
    return share


def _read_images(value: object) -> int | float:
    """Parse a number of images, or a share of them."""
    parsed = read_number(value)
    if parsed is not None and parsed[1] == "" and parsed[0] >= 1 and parsed[0] == int(parsed[0]):
        return int(parsed[0])
    try:
        return _read_share(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither a number of images (1 or more) nor a share of them (0.1 or 10%)"
        ) from None


_SHARE = [
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "string", "pattern": number_pattern(["%"])},
]
Share = Annotated[float, BeforeValidator(_read_share), WithJsonSchema({"anyOf": _SHARE})]
"""A share above 0 and below 1; may be written as ``10%``."""
Images = Annotated[
    int | float, BeforeValidator(_read_images), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, *_SHARE]})
]
"""A number of images, or a share of each class (0.1, ``10%``)."""


class Section(BaseModel):
    """A part of a recipe. Frozen; unknown keys are errors. Paths are absolute once a recipe is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
