"""Figures of INT8 logits against FP32 ones, by numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.int8.fidelity import compare_accuracy, compare_fidelity

EXACT = np.array([[3.0, 1.0], [0.0, 4.0], [2.0, 1.0], [1.0, 2.0]])


def test_figures_of_a_known_difference() -> None:
    found = compare_fidelity(EXACT, EXACT + np.array([[0.2, 0], [0, 0], [-0.4, 0.8], [0, 0]]))
    assert found.p99 == pytest.approx(0.8 / 4)
    assert found.sqnr_db == pytest.approx(10 * math.log10(36 / (0.04 + 0.16 + 0.64)))
    assert (found.agreement, found.images) == (0.75, 4)


def test_equal_logits_have_no_noise_and_nan_agrees_with_nothing() -> None:
    same = compare_fidelity(EXACT, EXACT)
    assert (same.p99, same.sqnr_db, same.agreement) == (0, math.inf, 1)
    assert same.to_dict()["sqnr_db"] is None
    broken = EXACT.copy()
    broken[1, 0] = np.nan
    found = compare_fidelity(EXACT, broken)
    assert (found.p99, found.sqnr_db, found.agreement) == (math.inf, -math.inf, 0.75)
    assert found.to_dict() == {"p99": None, "sqnr_db": None, "agreement": 0.75, "images": 4}
    with pytest.raises(ExportError, match=r"shapes \(4, 2\) and \(3, 2\) cannot be compared"):
        compare_fidelity(EXACT, EXACT[:3])


def test_accuracy_lost_is_paired_by_image() -> None:
    labels = np.zeros(200, np.int64)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    before = np.array([right] * 180 + [wrong] * 20)
    after = np.array([right] * 170 + [wrong] * 10 + [right] * 4 + [wrong] * 16)
    found = compare_accuracy(before, after, labels)
    assert (found.fp32, found.int8, found.images) == (0.9, 0.87, 200)
    assert found.drop == pytest.approx(0.03)
    lost, gained = 11 / 202, 5 / 202  # Bonett and Price (2012): one image more in each cell
    half = 1.959964 * math.sqrt((lost + gained - (lost - gained) ** 2) / 202)
    assert (found.low, found.high) == (pytest.approx(lost - gained - half), pytest.approx(lost - gained + half))


def test_the_interval_has_a_width_where_no_image_changed_and_shrinks_with_images() -> None:
    def width(count: int) -> float:
        logits = np.tile([1.0, 0.0], (count, 1))
        found = compare_accuracy(logits, logits, np.zeros(count, np.int64))
        assert found.drop == 0
        assert found.low == -found.high
        return found.high

    assert 0 < width(10_000) < width(100) / 50
    with pytest.raises(ExportError, match=r"4 and 4 rows of logits with 3 labels"):
        compare_accuracy(EXACT, EXACT, np.zeros(3, np.int64))


def test_logits_that_are_not_finite_are_wrong() -> None:
    labels = np.array([0, 1, 0, 1])
    broken = EXACT.copy()
    broken[0] = [np.inf, 0]
    assert compare_accuracy(EXACT, broken, labels).int8 == 0.75
