from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.errors import DataError
from slimsight.deploy.bench.images import MAX_IMAGES, open_bench_images


def _open(place, size=(8, 8), **options):
    return open_bench_images(place, None, size, seed=0, **options)


def test_a_folder_s_images_are_scaled_to_the_models_size(tmp_path):
    for name, size in (("a/one.png", (20, 10)), ("b/two.jpg", (8, 8))):
        path = tmp_path / name
        path.parent.mkdir()
        Image.new("RGB", size, (255, 0, 0)).save(path)
    found = _open(tmp_path)
    assert (found.pixels.shape, found.pixels.dtype, found.source) == ((2, 3, 8, 8), np.uint8, str(tmp_path))
    assert found.pixels[0, 0].min() == 255


def test_an_array_is_taken_as_it_is_up_to_a_limit(tmp_path):
    values = np.random.default_rng(0).random((MAX_IMAGES + 5, 3, 8, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(_open(tmp_path / "x.npy").pixels, values[:MAX_IMAGES])


def test_a_run_gives_its_validation_images(finished, cache, monkeypatch):
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))
    found = open_bench_images(None, finished.root, (16, 16), seed=0)
    assert found.pixels.shape[1:] == (3, 16, 16)
    assert len(found.pixels) > 100
    assert found.source == "validation images of finished"


def test_without_any_they_are_drawn_by_the_seed():
    found = _open(None)
    assert (found.pixels.shape, found.source) == ((64, 3, 8, 8), "drawn at random")
    np.testing.assert_array_equal(found.pixels, _open(None).pixels)
    with pytest.raises(DataError, match="models take images of any size: say which with --images"):
        _open(None, size=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"uint8 \(2, 8, 8, 3\): give them as \(N, 3, H, W\), with channels first"),
        (np.zeros((2, 1, 8, 8), np.uint8), r"uint8 \(2, 1, 8, 8\): give them as \(N, 3, H, W\)$"),
        (np.zeros((3, 8, 8), np.uint8), r"give one image or more as \(N, 3, H, W\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), r"give one image or more as \(N, 3, H, W\)"),
        (np.zeros((2, 3, 9, 8), np.uint8), r"the models take 8 x 8 pixels, give images of that size"),
        (np.zeros((2, 3, 8, 8), np.int64), r"int64 .*: give uint8 \(0 to 255\) or floating point \(0 to 1\)"),
        (np.full((2, 3, 8, 8), np.nan, np.float32), "with values that are NaN or infinite: replace those images"),
        (np.full((2, 3, 8, 8), 255.0, np.float32), "from 255 to 255: give floating point from 0 to 1, or uint8"),
    ],
)
def test_images_that_no_model_takes_are_refused(tmp_path, values, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=message):
        _open(tmp_path / "x.npy")


def test_places_without_images_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    for place, message in (
        (tmp_path, r"contains no images \(\.bmp"),
        (tmp_path / "none", "none does not exist: give a folder of images or a .npy file"),
        (tmp_path / "notes.txt", r"notes\.txt is a file: give a folder"),
        (tmp_path / "none.npy", r"there is no .*none\.npy"),
        (tmp_path / "broken.npy", r"broken\.npy is not an array that numpy can read"),
    ):
        with pytest.raises(DataError, match=message):
            _open(place)
