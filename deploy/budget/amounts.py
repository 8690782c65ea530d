"""What the keys of a budget file take, read as people write it; and the same as JSON Schema, for editors."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final, Literal

from slimsight.compress.amounts import (
    BYTE_UNITS,
    MACS_UNITS,
    PARAM_UNITS,
    TIME_UNITS,
    Amount,
    number_pattern,
    read_number,
    to_amount,
)

read_macs = partial(to_amount, what="MACs", units=MACS_UNITS, example="20M, 500k, 0.5 GMACs, 4e9")
read_params = partial(to_amount, what="parameters", units=PARAM_UNITS, example="250k, 11M")
read_size = partial(to_amount, what="bytes", units=BYTE_UNITS, example="1.2MB, 800kB, 2MiB")
read_latency = partial(to_amount, what="latency", units=TIME_UNITS, example="3ms, 800us")


def read_share(value: object, *, what: str, example: str) -> float:
    """A share 0..1 of a number, or of a percentage."""
    parsed = read_number(value)
    number = math.nan if parsed is None else parsed[0] / (100 if parsed[1] == "%" else 1)
    if parsed is None or parsed[1] not in ("", "%") or not 0 <= number <= 1:
        raise ValueError(f"{value!r} is no {what}: give a share from 0 to 1 or a percentage ({example})")
    return number


read_accuracy = partial(read_share, what="accuracy", example="0.88 or '88%'")
read_overlap = partial(read_share, what="overlap of maps", example="0.5 or '50%'")
read_region_overlap = partial(read_share, what="overlap of regions", example="0.5 or '50%'")
read_moved = partial(read_share, what="share of images", example="0.1 or '10%'")
read_lost = partial(read_share, what="share of images", example="0.01 or '1%'")


def read_drop(value: object) -> float:
    drop = read_share(value, what="accuracy drop", example="0.01 or '1%' for one point")
    if drop == 1:
        raise ValueError(f"{value!r} is a drop by 100 points: write '1%' (or 0.01) for one point")
    return drop


def read_growth(value: object) -> float:
    """How much more of something is allowed than before: ``2%`` or 0.02."""
    growth = read_share(value, what="growth", example="0.02 or '2%'; 0 lets nothing grow")
    if growth == 1 and "%" not in str(value):
        raise ValueError(f"{value!r} would let it double: write '1%' (or 0.01), or '100%' if that is meant")
    return growth


def read_parity(value: object) -> Literal[True] | float:
    parsed = read_number(value)
    if value is True:
        return True
    if parsed is None or parsed[1] != "" or parsed[0] <= 0:
        raise ValueError(
            f"{value!r} is no limit on parity: give true (every row passed) or the largest difference of "
            "logits allowed (1e-4); remove the line to check nothing"
        )
    return parsed[0]


def read_speedup(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "x") or parsed[0] <= 0:
        raise ValueError(f"{value!r} is no speed-up: give the least ratio allowed (1.3 or 1.3x)")
    return parsed[0]


def read_pixels(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "px") or parsed[0] < 0:
        raise ValueError(f"{value!r} is no distance: give the most pixels allowed (3 or 3px)")
    return parsed[0]


def of_a_layer(value: object, *, what: str, units: dict[str, float], example: str) -> Amount:
    """An amount alone: a layer has no original to take a share of."""
    parsed = read_number(value)
    known = parsed is not None and parsed[0] > 0 and parsed[1] in units
    if parsed is None or not known or (parsed[1] == "" and parsed[0] <= 1):
        raise ValueError(f"{value!r} is no limit on {what} of a layer: give an amount ({example})")
    return Amount(parsed[0] * units[parsed[1]], relative=False)


read_layer_macs = partial(of_a_layer, what="MACs", units=MACS_UNITS, example="5M, 500k, 0.5 GMACs")
read_layer_params = partial(of_a_layer, what="parameters", units=PARAM_UNITS, example="36k, 1.2M")


def _number(**bounds: float) -> dict[str, Any]:
    return {"type": "number", **bounds}


def _text(*units: str) -> dict[str, Any]:
    return {"type": "string", "pattern": number_pattern(units)}


MACS: Final = {"anyOf": [_number(exclusiveMinimum=0), _text("%", *MACS_UNITS)]}
PARAMS: Final = {"anyOf": [_number(exclusiveMinimum=0), _text("%", *PARAM_UNITS)]}
SIZE: Final = {"anyOf": [_number(exclusiveMinimum=0), _text("%", *BYTE_UNITS)]}
LATENCY: Final = {"anyOf": [_number(exclusiveMinimum=0, maximum=1), _text("%", *TIME_UNITS)]}
LAYER_MACS: Final = {"anyOf": [_number(exclusiveMinimum=1), _text(*MACS_UNITS)]}
LAYER_PARAMS: Final = {"anyOf": [_number(exclusiveMinimum=1), _text(*PARAM_UNITS)]}
SHARE: Final = {"anyOf": [_number(minimum=0, maximum=1), _text("", "%")]}
SPEEDUP: Final = {"anyOf": [_number(exclusiveMinimum=0), _text("", "x")]}
PIXELS: Final = {"anyOf": [_number(minimum=0), _text("", "px")]}
PARITY: Final = {"anyOf": [{"const": True}, _number(exclusiveMinimum=0), _text("")]}
