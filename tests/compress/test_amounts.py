"""Amounts as people write them."""

from __future__ import annotations

import pytest

from slimsight.compress.amounts import (
    BYTE_UNITS,
    COUNT_UNITS,
    MACS_UNITS,
    PARAM_UNITS,
    TIME_UNITS,
    Amount,
    read_number,
    to_amount,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, (0.5, "")),
        (20_000_000, (20e6, "")),
        ("20M", (20.0, "m")),
        (" 1.2 MB ", (1.2, "mb")),
        ("50%", (50.0, "%")),
        ("1e-4", (1e-4, "")),
        ("20_000_000", (20e6, "")),
        (".5", (0.5, "")),
        (True, None),
        ("nan", None),
        ("-3", None),
        ("1,000", None),
        ("", None),
        (float("inf"), None),
        ("1e999", None),
        ([1], None),
    ],
)
def test_read_number(value: object, expected: tuple[float, str] | None) -> None:
    assert read_number(value) == expected


@pytest.mark.parametrize(
    ("value", "units", "expected"),
    [
        (0.5, COUNT_UNITS, Amount(0.5, True)),
        ("50 %", COUNT_UNITS, Amount(0.5, True)),
        (1, COUNT_UNITS, Amount(1.0, True)),
        ("20M", COUNT_UNITS, Amount(2e7, False)),
        (20_000_000, COUNT_UNITS, Amount(2e7, False)),
        ("2 MiB", BYTE_UNITS, Amount(2.0**21, False)),
        ("800us", TIME_UNITS, Amount(0.8, False)),
        ("60%", TIME_UNITS, Amount(0.6, True)),
        ("0.5 GMACs", MACS_UNITS, Amount(5e8, False)),
        ("60 MMACs", MACS_UNITS, Amount(6e7, False)),
        ("60 M MACs", MACS_UNITS, Amount(6e7, False)),
        ("900 MACs", MACS_UNITS, Amount(900, False)),
        ("1.2M params", PARAM_UNITS, Amount(1.2e6, False)),
        ("640 bytes", BYTE_UNITS, Amount(640, False)),
        ("3 ms", TIME_UNITS, Amount(3, False)),
    ],
)
def test_amounts(value: object, units: dict[str, float], expected: Amount) -> None:
    assert to_amount(value, what="it", units=units, example="x") == expected


@pytest.mark.parametrize(
    ("value", "units", "words"),
    [
        (0, COUNT_UNITS, "0 is not a valid limit on it: give a ratio"),
        (-0.5, COUNT_UNITS, "-0.5 is not a valid limit on it"),
        ("3ms", COUNT_UNITS, "'3ms' is not a valid limit on it: .* of at least 1000 \\(x\\)"),
        ("150%", COUNT_UNITS, "'150%' would let it grow"),
        (40, COUNT_UNITS, "40 is neither a ratio nor a plausible amount of it"),
        (40, TIME_UNITS, "40 has no unit"),
        ("1 GFLOPs", MACS_UNITS, "'1 GFLOPs' is in FLOPs, which some count twice as many as MACs: give a ratio"),
        ("2 MB", MACS_UNITS, "'2 MB' is not a valid limit on it"),
        (True, COUNT_UNITS, "True is not a valid limit on it"),
        ("nan", COUNT_UNITS, "'nan' is not a valid limit on it"),
    ],
)
def test_what_is_no_amount(value: object, units: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_amount(value, what="it", units=units, example="x")


def test_limits_are_whole_numbers_from_below() -> None:
    assert Amount(0.29, True).limit(100) == 29
    assert Amount(0.5, True).limit(7) == 3
    assert Amount(1e3, False).limit(7) == 1000
