from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.data.decode import Encoded, decode, is_image, to_bytes
from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.errors import DataError


def encoded(image: Image.Image, name: str, kind: str = "PNG") -> Encoded:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return Encoded("train", name, buffer.getvalue(), f"archive: {name}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat/1.jpg", True),
        ("cat/deep/1.JPEG", True),
        ("cat/1.txt", False),
        ("cat/.1.jpg", False),
        ("cat/.thumbs/1.jpg", False),
        ("cat/jpg", False),
    ],
)
def test_images_are_known_by_suffix_and_hidden_files_are_ignored(name: str, expected: bool) -> None:
    assert is_image(name) is expected


def test_bytes_are_channels_first_rgb() -> None:
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    image.putpixel((2, 0), (1, 2, 3))
    result = to_bytes(image)
    assert result.shape == (3, 2, 3)
    assert result[:, 0, 2].tolist() == [1, 2, 3]
    assert result[:, 1, 0].tolist() == [10, 20, 30]


def halved(image: np.ndarray, axis: int) -> np.ndarray:
    """Half as large along an axis, in float64: the triangle filter's four taps, cut at the image's ends."""
    lines = np.moveaxis(image.astype(np.float64), axis, 0)
    taps = np.array([0.125, 0.375, 0.375, 0.125])
    made = []
    for first in range(-1, len(lines) - 1, 2):
        inside = (np.arange(first, first + 4) >= 0) & (np.arange(first, first + 4) < len(lines))
        made.append(np.tensordot((taps * inside)[inside] / taps[inside].sum(), lines[max(first, 0) : first + 4], 1))
    return np.moveaxis(np.array(made), 0, axis)


def test_resizing_scales_the_shorter_side_and_keeps_the_centre() -> None:
    """Within one level: PIL rounds to bytes after each of its two passes, in an order that depends on its version."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    centre = halved(halved(noise, 0), 1)[:, 2:6].transpose(2, 0, 1)
    assert np.abs(to_bytes(Image.fromarray(noise), Preprocessing.square(4)) - centre).max() <= 1
    tall = Image.fromarray(noise.transpose(1, 0, 2))
    assert np.abs(to_bytes(tall, Preprocessing.square(4)) - centre.transpose(0, 2, 1)).max() <= 1


def test_grey_and_palette_images_become_rgb() -> None:
    assert to_bytes(Image.new("L", (2, 2), 7)).tolist() == [[[7, 7], [7, 7]]] * 3
    assert to_bytes(Image.new("RGB", (2, 2), (0, 255, 0)).convert("P"))[:, 0, 0].tolist() == [0, 255, 0]


def test_many_images_come_back_in_order() -> None:
    items = [encoded(Image.new("RGB", (4, 4), (0, number, 0)), f"cat/{number}") for number in range(200)]
    result = list(decode(iter(items), None))
    assert [item.name for item in result] == [item.name for item in items]
    assert [int(item.image[1, 0, 0]) for item in result] == list(range(200))


def test_16_bit_images_are_refused() -> None:
    image = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(DataError, match=r"cat/1 cannot be decoded \(mode I;16: only 8 bits.*replace or remove it"):
        list(decode([encoded(image, "cat/1")], None))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png is not an image that can be read; replace or remove it"):
        list(decode([Encoded("train", "cat/1.png", path, str(path))], None))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_off_image_is_named(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    good = encoded(Image.fromarray(noise), "cat/1", kind)
    assert isinstance(good.data, bytes)
    with pytest.raises(DataError, match=r"archive: cat/1 cannot be decoded \(.*\); replace or remove it"):
        list(decode([good._replace(data=good.data[: len(good.data) // 2])], None))


def test_another_size_names_the_file_and_both_sizes() -> None:
    items = [encoded(Image.new("RGB", (8, 8)), "cat/1"), encoded(Image.new("RGB", (9, 8)), "cat/2")]
    message = r"cat/2 is 9 x 8 pixels, but archive: cat/1 is 8 x 8; .*image_folder.*image_size: 8"
    with pytest.raises(DataError, match=message):
        list(decode(items, None))
    assert [item.image.shape for item in decode(items, Preprocessing.square(4))] == [(3, 4, 4)] * 2


def test_a_size_other_than_that_of_training_is_refused() -> None:
    with pytest.raises(DataError, match="is 8 x 8 pixels, but the training images are 16 x 16"):
        list(decode([encoded(Image.new("RGB", (8, 8)), "cat/1")], None, expect=16))


def test_oblong_images_need_image_size() -> None:
    with pytest.raises(DataError, match="cat/1 is 9 x 8 pixels, but images must be square; set image_size"):
        list(decode([encoded(Image.new("RGB", (9, 8)), "cat/1")], None))
