from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from slimsight.compress.config import DataConfig
from slimsight.compress.data import open_splits
from slimsight.compress.data.boxes import load_boxes
from slimsight.compress.data.preprocessing import Preprocessing, Window
from slimsight.compress.data.scaled import read_scaled

SIZES = [(61, 90), (90, 61), (40, 40), (33, 257), (20, 18)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("size", SIZES)
def test_the_default_is_the_centre_square_to_the_last_bit(size: tuple[int, int]) -> None:
    image = noise(*size)
    fitted = ImageOps.fit(image, (24, 24), Image.Resampling.BILINEAR)
    assert (pixels(Preprocessing.square(24).apply(image)) == pixels(fitted)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_and_centre_crop_are_torchvisions(size: tuple[int, int], interpolation: Any) -> None:
    image = noise(*size)
    theirs = Compose([Resize(32, InterpolationMode(interpolation)), CenterCrop(25)])(image)
    difference = np.abs(pixels(Preprocessing(25, 32, interpolation).apply(image)) - pixels(theirs))
    # A sum that falls on the border of two levels may round either way: often where 18 pixels become 32.
    assert (difference.max() <= 1, (difference > 0).mean() < 0.1) == (True, True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", [24, 30])
def test_stretched_images_lose_their_aspect_ratio_as_in_torchvision(size: tuple[int, int], resize: int) -> None:
    image = noise(*size)
    theirs = Compose([Resize((resize, resize), InterpolationMode.BICUBIC), CenterCrop(24)])(image)
    difference = np.abs(pixels(Preprocessing(24, resize, "bicubic", stretch=True).apply(image)) - pixels(theirs))
    assert (difference.max() <= 1, (difference > 0).mean() < 0.01) == (True, True)


def test_windows_are_in_pixels_of_the_file() -> None:
    assert Preprocessing.square(50).window(100, 51) == Window(24.5, 0, 51, 51)
    assert Preprocessing(28, 32).window(64, 128) == Window(4, 36, 56, 56)
    assert Preprocessing(28, 32, stretch=True).window(64, 128) == Window(4, 8, 56, 112)
    assert Preprocessing(32, 32, stretch=True).window(64, 128) == Window(0, 0, 64, 128)


def test_words_say_what_is_cut_off() -> None:
    assert Preprocessing(224, 256, "bicubic").words == (
        "short side scaled to 256 pixels (bicubic), centre crop 224 x 224"
    )
    assert Preprocessing(32, 32, stretch=True).words == "both sides scaled to 32 pixels (bilinear), all of it"
    assert Preprocessing(28, 32, stretch=True).words == (
        "both sides scaled to 32 pixels (bilinear), centre crop 28 x 28"
    )


def test_the_default_keeps_the_key_of_the_cache() -> None:
    """Images that an earlier version decoded are not decoded again."""
    assert (Preprocessing.square(16).cache_key, Preprocessing(16, 16).cache_key) == (16, 16)
    others = [Preprocessing(16, 18), Preprocessing(16, 16, "bicubic"), Preprocessing(16, 16, stretch=True)]
    assert len({16, *(each.cache_key for each in others)}) == 4


@pytest.mark.parametrize("options", [{"resize": 30}, {"interpolation": "bicubic"}, {"stretch": True, "resize": 26}])
def test_every_way_of_decoding_gives_the_same_picture(photos: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Folders, trees, and images decoded on the fly; the files are too small to be made smaller while decoded."""

    def images(**settings: Any) -> np.ndarray:
        config = DataConfig(**{"path": photos, "image_size": 24, "source": "image_folder", **settings})
        return np.asarray(open_splits(config, cache_dir=tmp_path / "cache", seed=0).val.images)

    made = Preprocessing(24, options.get("resize", 24), options.get("interpolation", "bilinear"), "stretch" in options)
    files = sorted((photos / "val").glob("*/*"))
    expected = np.stack([pixels(made.apply(Image.open(file))).transpose(2, 0, 1) for file in files])
    for settings in ({}, {"decode": "on_the_fly", "workers": 0}):
        found = images(**options, **settings)
        assert (found == expected).all()
        assert (images(**settings) != found).any()
    (photos / "val").rename(photos / "test")
    tree = open_splits(
        DataConfig(path=photos, image_size=24, source="image_tree", **options), cache_dir=tmp_path / "cache", seed=0
    )
    assert (np.asarray(tree.test().images) == expected).all()


def test_archives_are_preprocessed_too(photos: Path, tmp_path: Path, pack_tree: Any) -> None:
    (photos / "val").rename(photos / "test")
    packed = pack_tree(photos, tmp_path / "photos.tar", "w")
    options: dict[str, Any] = {"image_size": 24, "resize": 30, "interpolation": "lanczos", "source": "image_tree"}
    folder, archive = (
        open_splits(DataConfig(path=path, **options), cache_dir=tmp_path / "cache", seed=0) for path in (photos, packed)
    )
    assert (np.asarray(folder.test().images) == np.asarray(archive.test().images)).all()
    assert (np.asarray(folder.train.images) == np.asarray(archive.train.images)).all()


def test_nearest_takes_pixels_of_the_file_and_no_means(tmp_path: Path) -> None:
    """A JPEG is made smaller while it is decoded, but not where single pixels are asked for."""
    noise(160, 160).save(tmp_path / "a.jpg", quality=95)
    made = Preprocessing(16, 20, "nearest")
    found = read_scaled(tmp_path / "a.jpg", 16, made.window, "nearest")
    assert (found == np.asarray(made.apply(Image.open(tmp_path / "a.jpg")))).all()


def test_boxes_are_cropped_with_their_images(tmp_path: Path) -> None:
    white = np.zeros((40, 80, 3), np.uint8)
    white[10:20, 30:50] = 255
    Image.fromarray(white).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,30,10,50,20\n")
    for made, box in (
        (Preprocessing(30, 40), [5, 5, 25, 15]),
        (Preprocessing(40, 40, stretch=True), [15, 10, 25, 20]),
    ):
        found = load_boxes(tmp_path / "boxes.csv", made)
        assert found.boxes.tolist() == [box]
        x0, y0, x1, y1 = box
        inside = np.zeros((made.side, made.side), dtype=bool)
        inside[y0:y1, x0:x1] = True
        assert ((found.images[0, 0].numpy() > 0.5) == inside).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": 20, "image_size": 32}, r"resize 20 is below image_size 32: the centre would not fit; give resize"),
        ({"resize": 256}, r"'resize' needs 'image_size', the side in pixels of the square"),
        ({"interpolation": "bicubic"}, r"'interpolation' needs 'image_size'"),
        ({"stretch": True}, r"'stretch' needs 'image_size'"),
        ({"interpolation": "cubic", "image_size": 32}, r"'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig(source="image_tree", path=Path("x"), **options)
