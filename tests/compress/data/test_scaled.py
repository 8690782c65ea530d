import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.data.augment import uniform_draws
from slimsight.compress.data.preprocessing import Window
from slimsight.compress.data.scaled import random_window, read_scaled
from slimsight.compress.errors import DataError

from .conftest import photo


def whole(width: int, height: int) -> Window:
    return Window(0, 0, width, height)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.mark.parametrize(("side", "decoded"), [(32, (50, 38)), (64, (100, 75)), (200, (400, 300))])
def test_a_large_jpeg_is_made_smaller_while_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, decoded: tuple[int, int]
) -> None:
    photo(400, 300).save(tmp_path / "a.jpg", quality=95)
    slow = Image.open(tmp_path / "a.jpg").resize((side, side), Image.Resampling.BILINEAR)
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        sizes.append(image.size)
        return resize(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    found = read_scaled(tmp_path / "a.jpg", side, whole)
    assert sizes == [decoded]
    assert difference(found, np.asarray(slow)) < 3


def test_windows_are_drawn_as_torchvision_draws_them() -> None:
    """Mean and spread of area, of the ratio of sides and of the centre, over 4,000 of each."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image, scale = torch.empty(3, 375, 500), (0.08, 1.0)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(4000)])
    ours = np.array([random_window(500, 375, scale, uniform_draws(1, position)) for position in range(4000)])
    top, left, height, width = theirs.T
    their_figures = [height * width, np.log(width / height), top + height / 2, left + width / 2]
    left, top, width, height = ours.T
    our_figures = [height * width, np.log(width / height), top + height / 2, left + width / 2]
    assert (width <= 500).all()
    assert (left + width <= 500).all()
    assert (top + height <= 375).all()
    for mine, other in zip(our_figures, their_figures, strict=True):
        spread = other.std()
        assert mine.mean() == pytest.approx(other.mean(), abs=0.08 * spread)
        assert mine.std() == pytest.approx(spread, rel=0.06)


def test_a_long_image_gets_the_largest_window_in_its_middle() -> None:
    assert random_window(1000, 10, (0.9, 1.0), uniform_draws(0, 0)) == Window(493, 0, 13, 10)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("LA", "PNG")]
)
def test_other_modes_become_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    photo(40, 30).convert(mode).save(path, kind)
    found = read_scaled(path, 16, whole)
    slow = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    assert difference(found, np.asarray(slow)) < 1


def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    buffer = io.BytesIO()
    photo(90, 80).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded \(image file is truncated.*data\.skip to leave it"):
        read_scaled(path, 16, whole)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg is not an image that can be read; replace it, or name it in"):
        read_scaled(path, 16, whole)
    Image.fromarray(np.zeros((20, 20), dtype=np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png cannot be decoded \(mode I.*8 bits per channel"):
        read_scaled(tmp_path / "b.png", 16, whole)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jpg is gone; put it back"):
        read_scaled(path, 16, whole)
