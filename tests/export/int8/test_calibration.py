"""Calibration images: what is refused, which are chosen, and how they are read."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from slimsight.compress.errors import ExportError
from slimsight.export.int8.calibration import BatchReader, Calibration, spread_rows

PIXELS = np.arange(40 * 3 * 2 * 2, dtype=np.uint16).astype(np.uint8).reshape(40, 3, 2, 2)
GREY = np.full((40, 3, 2, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (PIXELS[:0], r"\(a folder\) are 0: INT8 needs at least 32"),
        (PIXELS[:31], r"are 31: INT8 needs at least 32"),
        (PIXELS[0], r"are uint8 \(3, 2, 2\): give them as \(N, 3, H, W\)"),
        (PIXELS.transpose(0, 2, 3, 1), r"are uint8 \(40, 2, 2, 3\): give them as \(N, 3, H, W\)"),
        (PIXELS.astype(np.int64), r"are int64: give uint8 \(0 to 255\) or floating point \(0 to 1\)"),
        (GREY * 255, r"go from 128 to 128: give floating point from 0 to 1, or uint8"),
        (GREY - 1, r"go from -0.5 to -0.5: give floating point"),
        (
            np.where(np.arange(40).reshape(40, 1, 1, 1) == 7, np.nan, GREY),
            r"NaN or infinity in 1 of 40 images.* image 7",
        ),
    ],
)
def test_images_that_ranges_cannot_be_measured_on_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Calibration(pixels, "a folder")


def test_positions_belong_to_images_and_the_digest_to_their_pixels() -> None:
    with pytest.raises(ExportError, match=r"are 40 with 3 positions: give one for each"):
        Calibration(PIXELS, "a folder", (1, 2, 3))
    found = Calibration(PIXELS, "a folder", tuple(range(40)))
    assert found.digest == hashlib.sha256(PIXELS.tobytes()).hexdigest()
    assert found.digest != Calibration(PIXELS[::-1], "a folder").digest


def test_rows_are_spread_over_all_of_the_training_images() -> None:
    rows = spread_rows(1000, 256)
    assert (len(rows), rows[0], rows[-1]) == (256, 0, 999)
    assert set(np.diff(rows)) == {3, 4}
    assert spread_rows(40, 256).tolist() == list(range(40))
    with pytest.raises(ExportError, match=r"^31 calibration images were asked for: INT8 needs at least 32$"):
        spread_rows(1000, 31)
    with pytest.raises(ExportError, match=r"^there are 12 images to calibrate on: INT8 needs at least 32$"):
        spread_rows(12, 256)


def test_the_reader_gives_batches_of_pixels_in_0_to_1() -> None:
    reader = BatchReader(Calibration(PIXELS[:36], "a folder"), "images", batch=None)
    assert len(reader) == 5
    batches = []
    for start in range(5):
        reader.set_range(start_index=start, end_index=start + 1)
        batch = reader.get_next()
        assert batch is not None
        assert reader.get_next() is None
        batches.append(batch["images"])
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 4]
    assert np.array_equal(np.concatenate(batches), PIXELS[:36].astype(np.float32) / 255)
    fixed = BatchReader(Calibration(PIXELS[:36], "a folder"), "images", batch=5)
    assert len(fixed) == 8
    fixed.set_range(start_index=7, end_index=8)
    last = fixed.get_next()
    assert last is not None
    assert np.array_equal(last["images"], np.repeat(PIXELS[35:36].astype(np.float32) / 255, 5, axis=0))
