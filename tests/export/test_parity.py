from __future__ import annotations

import json
import math

import numpy as np
import pytest

from compress.errors import ExportError
from export.parity import ParityResult, check_parity, compare
from export.runners import OnnxRunner, Pt2Runner, TorchRunner

_ABOUT = {"artifact": "a", "runtime": "r", "precision": "fp32", "batch": 2}


def test_numbers_of_a_hand_made_case():
    reference = np.zeros((50, 4), np.float32)
    reference[:, 1] = 1
    candidate = reference.copy()
    candidate[0, 1] = 1.25  # 3 of 200 logits differ; the 0.99 quantile lies above the third largest
    candidate[1, 0] = 0.5
    candidate[2, 3] = 2.0  # another class wins
    result = compare(reference, candidate, **_ABOUT, tolerance=3.0)
    assert result == ParityResult("a", "r", "fp32", 2, 2.0, 0.5, 0.98, False)


def test_passes_up_to_the_tolerance():
    reference = np.array([[0.0, 1.0], [1.0, 0.0]])
    candidate = reference + np.array([[0.0, 0.5], [0.0, 0.0]])
    assert compare(reference, candidate, **_ABOUT, tolerance=0.5).passed
    assert not compare(reference, candidate, **_ABOUT, tolerance=0.499).passed
    assert compare(reference, reference, **_ABOUT).passed


def test_lower_precision_is_judged_by_its_quantile_and_agreement():
    reference = np.tile(np.array([0.0, 1.0]), (200, 1))
    candidate = reference.copy()
    candidate[0] = (2.0, 1.0)  # one outlier of 400 logits, one image of 200
    about = _ABOUT | {"precision": "fp16", "tolerance": 1e-3}
    assert not compare(reference, candidate, **about).passed
    assert compare(reference, candidate, **about, min_agreement=0.99).passed
    assert not compare(reference, candidate, **_ABOUT, tolerance=1e-3, min_agreement=0.99).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_what_is_not_finite_never_passes(bad, sides):
    clean = np.tile(np.array([0.0, 1.0, 0.5]), (4, 1))
    pair = [clean.copy(), clean.copy()]
    for side, spoiled in zip(pair, sides, strict=True):
        if spoiled:
            side[1, 2] = bad
    for precision in ("fp32", "fp16"):
        result = compare(*pair, **_ABOUT | {"precision": precision}, tolerance=math.inf, min_agreement=0.0)
        assert (result.max_abs, result.p99_abs, result.top1_agreement) == (math.inf, math.inf, 0.75)
        assert not result.passed
        row = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert (row["max_abs"], row["p99_abs"], row["passed"]) == (None, None, False)


def test_row_has_the_names_of_the_report():
    row = compare(np.eye(2), np.eye(2), **_ABOUT).to_dict()
    assert row == {
        "artifact": "a",
        "runtime": "r",
        "precision": "fp32",
        "batch": 2,
        "max_abs": 0.0,
        "p99_abs": 0.0,
        "top1_agreement": 1.0,
        "passed": True,
    }


def test_shapes_must_fit():
    with pytest.raises(ExportError, match=r"a gave logits of shape \(2, 4\), the reference \(2, 3\): parity"):
        compare(np.zeros((2, 3)), np.zeros((2, 4)), **_ABOUT)
    with pytest.raises(ExportError, match="at least one image"):
        compare(np.zeros((0, 3)), np.zeros((0, 3)), **_ABOUT)


@pytest.mark.parametrize("batch", [1, 4])
def test_artefacts_equal_the_model(case, batch):
    images = case.images(5)
    for candidate in (OnnxRunner(case.onnx), Pt2Runner(case.pt2)):
        with TorchRunner(case.model) as reference, candidate:
            result = check_parity(reference, candidate, images, artifact=candidate.name, batch=batch)
        assert result.passed, result
        assert result.p99_abs <= result.max_abs <= 2e-5
        assert (result.artifact, result.runtime, result.batch) == (candidate.name, candidate.runtime, batch)


class Counting:
    """Logits that number the images; notes its batches."""

    name, runtime, precision = "counting", "none", "fp32"

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.sizes: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def run(self, images):
        self.sizes.append(len(images))
        return np.stack([images[:, 0, 0, 0], images[:, 0, 0, 0] + 1 + self.offset], axis=1)


def test_every_image_runs_and_the_last_batch_is_ragged():
    reference, candidate = Counting(), Counting(offset=0.25)
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    result = check_parity(reference, candidate, images, artifact="x", batch=3, tolerance=0.5)
    assert reference.sizes == candidate.sizes == [3, 3, 1]
    assert result.max_abs == pytest.approx(0.25, abs=1e-6)
    assert result.passed
    assert not check_parity(reference, candidate, images, artifact="x", batch=3).passed


def test_needs_images():
    with pytest.raises(ExportError, match="x: 0 images in batches of 3; parity needs 1 or more of each"):
        check_parity(Counting(), Counting(), np.zeros((0, 3, 2, 2)), artifact="x", batch=3)
