from typing import Any

import pytest

from slimsight.compress.amounts import as_duration
from slimsight.deploy.report.schema import Check
from slimsight.deploy.report.units import (
    as_bytes,
    as_count,
    as_error,
    as_growth,
    as_macs,
    as_ms,
    as_percent,
    as_points,
    as_times,
    check_texts,
    describe_check,
    excess_text,
    plural,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (as_macs(20_532_480), "20.53 M"),
        (as_macs(4_089_184_256), "4,089 M"),
        (as_macs(41_000), "0.04 M"),
        (as_count(25_557_032), "25,557,032"),
        (as_bytes(512), "512 bytes"),
        (as_bytes(610_400), "610.40 kB"),
        (as_bytes(610_400, like=1_100_120), "0.61 MB"),
        (as_bytes(1_100_120), "1.10 MB"),
        (as_bytes(2.5e9), "2.50 GB"),
        (as_percent(0.8841), "88.41 %"),
        (as_percent(0.4986, 1), "49.9 %"),
        (as_points(-0.0051), "-0.51 points"),
        (as_error(4.21e-6), "4.2e-06"),
        (as_error(0.0), "0"),
        (as_error(None), "not finite"),
        (as_ms(0.8142), "0.814 ms"),
        (as_ms(1.2345), "1.23 ms"),
        (as_ms(12.345), "12.3 ms"),
        (as_ms(123.45), "123 ms"),
        (as_times(1.5624), "1.56x"),
        (as_growth(0.0234), "+2.3 %"),
        (as_growth(-0.1), "-10.0 %"),
        (as_growth(0.0), "+0.0 %"),
        (as_growth(0.0001), "+0.01 %"),
        (as_duration(4.24), "4.2 s"),
        (as_duration(59.99), "1 min 00 s"),
        (as_duration(200), "3 min 20 s"),
        (as_duration(7500), "2 h 05 min"),
        (plural(1, "thread"), "1 thread"),
        (plural(2000, "step"), "2,000 steps"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert text == expected


def test_a_check_in_words() -> None:
    failed = Check(name="MACs", limit=20_557_824, value=21_300_000, passed=False, unit="MACs")
    assert describe_check(failed) == "MACs: 21.30 M, at most 20.56 M allowed"
    missing = Check(name="speed-up", limit=1.3, value=None, passed=False, bound="min", unit="times", reason="no rows")
    assert describe_check(missing) == "speed-up: missing, at least 1.30x allowed (no rows)"


def test_a_narrow_miss_does_not_look_like_a_pass() -> None:
    narrow = Check(name="MACs", limit=20_557_824, value=20_557_825, passed=False, unit="MACs")
    assert check_texts(narrow) == ("at most 20,557,824", "20,557,825")
    speed = Check(name="speed-up", limit=1.3, value=1.2999, passed=False, bound="min", unit="times")
    assert check_texts(speed) == ("at least 1.3", "1.2999")
    equal = Check(name="cost", limit=1000, value=1000, passed=True, bound="equal", unit="MACs")
    assert check_texts(equal) == ("exactly 1,000", "1,000")


@pytest.mark.parametrize(
    ("unit", "bound", "limit", "value", "text"),
    [
        ("MACs", "max", 20_000_000, 20_570_000, "2.9 % above"),
        ("MACs", "max", 20_000_000, 20_000_001, "1 MACs above"),
        ("ms", "max", 0.02, 0.681, "34.1 times as much"),
        ("times", "min", 1.2, 1.08, "10.0 % below"),
        ("accuracy", "min", 0.9, 0.889, "1.10 points below"),
        ("growth", "max", 0.01, 0.0109, "0.09 points above"),
        ("growth", "max", 0.0, 0.25, "25.00 points above"),
        ("images", "max", 0.0, 0.02, "2.00 points above"),
        ("rows", "min", 4, 3, "1 below"),
        ("px", "max", 3.0, 4.5, "50.0 % above"),
    ],
)
def test_by_how_much_a_check_failed(unit: Any, bound: Any, limit: float, value: float, text: str) -> None:
    check = Check(name="x", limit=limit, value=value, passed=False, bound=bound, unit=unit)
    assert excess_text(check) == text
    assert excess_text(check.model_copy(update={"passed": True})) == ""
    assert excess_text(check.model_copy(update={"value": None})) == ""
