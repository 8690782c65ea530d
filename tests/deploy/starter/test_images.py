import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.data.lists import read_skip
from slimsight.compress.errors import BrokenImage, DataError
from slimsight.deploy.starter import ImageFacts, examine_images
from slimsight.deploy.starter.choose import statistics


def save(path: Path, size: tuple[int, int] = (40, 30), colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 100, 200)).save(path)


def look(path: Path | None, cache: Path) -> ImageFacts:
    return examine_images(path, cache=cache)


@pytest.mark.parametrize(
    ("folders", "splits", "layout"),
    [
        (("",), {"train": 12, "val": 4, "test": 4}, "one folder per class in images; a test set is held out of them"),
        (("train", "test"), {"train": 16, "val": 4, "test": 20}, "class folders in train/, test/"),
        (
            ("train", "val"),
            {"train": 20, "val": 20, "test": 0},
            "class folders in train/, val/; val/ validates, and there is no test set",
        ),
        (
            ("Training", "valid"),
            {"train": 20, "val": 20, "test": 0},
            "class folders in Training/, valid/; valid/ validates, and there is no test set",
        ),
        (("TRAIN", "Testing"), {"train": 16, "val": 4, "test": 20}, "class folders in TRAIN/, Testing/"),
        (
            ("training", "validation", "testing"),
            {"train": 20, "val": 20, "test": 20},
            "class folders in training/, validation/, testing/",
        ),
        (
            ("Train",),
            {"train": 12, "val": 4, "test": 4},
            "one folder per class in Train/; a test set is held out of them",
        ),
        (("train", "val", "test"), {"train": 20, "val": 20, "test": 20}, "class folders in train/, val/, test/"),
        (
            ("train",),
            {"train": 12, "val": 4, "test": 4},
            "one folder per class in train/; a test set is held out of them",
        ),
    ],
)
def test_every_layout_is_counted_as_a_run_will_split_it(
    tmp_path: Path, folders: tuple[str, ...], splits: dict[str, int], layout: str
) -> None:
    root = tmp_path / "images"
    for folder in folders:
        for name in ("a", "b"):
            for number in range(10):
                save(root / folder / name / f"{number}.png")
    found = look(root, tmp_path)
    assert (found.splits, found.layout, found.classes) == (splits, layout, ("a", "b"))


def test_the_side_is_the_largest_usual_one_that_half_of_the_images_have(tmp_path: Path) -> None:
    for number, size in enumerate([(300, 101), (101, 300), (90, 500), (140, 140), (20, 20)]):
        save(tmp_path / "a" / f"{number}.png", size)
        save(tmp_path / "b" / f"{number}.png", size)
    found = look(tmp_path, tmp_path)
    assert (found.short_side, found.size) == (101, 96)
    assert found.sample(96)[0].shape[1:] == (3, 96, 96)
    save(tmp_path / "a" / "5.png", (9, 9))
    small = examine_images(tmp_path, cache=tmp_path)
    assert small.size >= 32


def test_uneven_classes_are_measured(tmp_path: Path) -> None:
    for name, count in (("many", 40), ("few", 4)):
        for number in range(count):
            save(tmp_path / name / f"{number}.png")
    found = look(tmp_path, tmp_path)
    assert (found.counts, found.imbalance) == ({"few": 4, "many": 40}, 10)


def test_what_no_recipe_can_name_is_refused_with_the_layouts_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere; give the folder of your images: one folder per class"):
        look(tmp_path / "nowhere", tmp_path)
    save(tmp_path / "flat" / "1.png")
    with pytest.raises(DataError, match=r"holds no class folders.*layouts that are known: one folder per class"):
        look(tmp_path / "flat", tmp_path)


@pytest.mark.parametrize("folders", [("train_set", "test_set"), ("a", "b", "val"), ("train", "test", "eval")])
def test_what_may_be_a_split_or_a_class_is_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        for name in ("a", "b"):
            save(tmp_path / "images" / folder / name / "1.png")
    with pytest.raises(DataError, match=r"look.? like .*split.*layouts that are known"):
        look(tmp_path / "images", tmp_path)


def test_all_broken_images_are_named_or_left_out_and_listed(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for split in ("train", "test"):
        for name in ("a", "b"):
            for number in range(20):
                save(root / split / name / f"{number}.png")
    for name, content in {"train/a/3.png": b"<html>", "train/b/4.png": b"", "test/a/5.png": b"oops"}.items():
        (root / name).write_bytes(content)
    with pytest.raises(BrokenImage, match=r"3 images in .* cannot be read") as error:
        look(root, tmp_path)
    assert [name in str(error.value) for name in ("train/a/3.png", "train/b/4.png", "test/a/5.png")] == [True] * 3
    listed = tmp_path / "skip.txt"
    found = examine_images(root, cache=tmp_path, skip_list=listed)
    assert [each.name for each in found.skipped] == ["test/a/5.png", "train/a/3.png", "train/b/4.png"]
    assert (found.config.skip, read_skip(listed)) == (listed, {each.name for each in found.skipped})
    assert sum(found.splits.values()) == 80 - 3
    assert found.splits["test"] == 39


def test_an_archive_without_test_images_and_with_broken_ones(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for name in ("a", "b"):
            for number in range(20):
                save(tmp_path / "images" / split / name / f"{number}.png", (16, 16))
    (tmp_path / "images/validation/a/7.png").write_bytes(b"oops")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "images", "photos")
    with pytest.raises(BrokenImage, match=r"1 image in .*validation/a/7\.png \(not an image\)"):
        look(tmp_path / "images.tar", tmp_path)
    found = examine_images(tmp_path / "images.tar", cache=tmp_path, skip_list=tmp_path / "skip.txt")
    assert found.splits == {"train": 40, "val": 39, "test": 0}


def test_digits_are_what_is_there_without_a_folder(cache: Path) -> None:
    found = look(None, cache)
    assert (found.config.source, found.size, len(found.classes), found.config.flip) == ("digits", 32, 10, False)
    assert sum(found.splits.values()) == sum(found.counts.values()) == 1797


def test_statistics_are_of_pixels_in_0_to_1() -> None:
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[0] = 255
    assert statistics(images) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
