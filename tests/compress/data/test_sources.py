from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from slimsight.compress.data.listing import list_images
from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.data.sources import CifarBatches, FolderSource, digits, folder_without_test
from slimsight.compress.errors import DataError

Tree = Callable[..., Path]

SQUARE = Preprocessing.square(8)
OTHERS = {
    "side": Preprocessing.square(16),
    "resize": Preprocessing(8, 10),
    "interpolation": Preprocessing(8, 8, "bicubic"),
    "stretch": Preprocessing(8, 8, stretch=True),
}


def test_nested_and_upper_case_images_are_listed_and_hidden_ones_not(tree: Path) -> None:
    root = tree / "train"
    (root / "cat/deep").mkdir()
    (root / "cat/0000.png").rename(root / "cat/deep/9.PNG")
    for hidden in ("cat/.1.png", ".git/1.png", "cat/notes.txt"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).write_bytes(b"")
    names = list_images(root).names
    assert len(names) == 20
    assert names[0] == "cat/0001.png"
    assert "cat/deep/9.PNG" in names


def test_a_class_folder_may_be_a_link(make_tree: Tree) -> None:
    root = make_tree({"train/cat": 2, "elsewhere/dog": 3})
    (root / "train/dog").symlink_to(root / "elsewhere/dog")
    assert len(list_images(root / "train").names) == 5


def test_folders_that_hold_nothing_are_named(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"cat": 1, "dog": 0})
    with pytest.raises(DataError, match=r"class folder .*dog holds no images \(\.bmp, .*\); add images"):
        list_images(root)
    with pytest.raises(DataError, match=r"there is no folder .*absent; give a path that holds one folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no class folders"):
        list_images(root / "cat")


def test_a_link_to_nowhere_is_named(tree: Path) -> None:
    (tree / "train/cat/gone.png").symlink_to(tree / "nowhere.png")
    source = FolderSource({"train": tree / "train", "test": tree / "test"}, None)
    with pytest.raises(DataError, match=r"gone\.png cannot be read \(No such file.*\); replace or remove it"):
        source.fingerprint("train")


def test_test_classes_are_compared_before_anything_is_decoded(tree: Path) -> None:
    (tree / "test/dog").rename(tree / "test/eel")
    with pytest.raises(DataError, match=r"test lacks dog and .*train lacks eel"):
        FolderSource({"train": tree / "train", "test": tree / "test"}, None)


@pytest.mark.parametrize("change", ["content", "time", "added", "renamed", *OTHERS])
def test_a_fingerprint_follows_every_change_of_its_own_split(tree: Path, change: str) -> None:
    def prints(made: Preprocessing = SQUARE) -> list[str]:
        source = FolderSource({"train": tree / "train", "test": tree / "test"}, made)
        return [source.fingerprint("train"), source.fingerprint("test")]

    before = prints()
    assert prints() == before
    file = tree / "train/cat/0000.png"
    if change == "content":
        Image.new("RGB", (80, 80)).save(file)
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "added":
        Image.new("RGB", (8, 8)).save(tree / "train/cat/more.png")
    elif change == "renamed":
        file.rename(file.with_name("other.png"))
    after = prints(OTHERS.get(change, SQUARE))
    assert after[0] != before[0]
    assert (after[1] != before[1]) == (change in OTHERS)


def test_test_images_must_have_the_size_of_training(make_tree: Tree) -> None:
    root = make_tree({"train/cat": 1, "train/dog": 1})
    make_tree({"test/cat": 1, "test/dog": 1}, size=(16, 16))
    source = FolderSource({"train": root / "train", "test": root / "test"}, None)
    with pytest.raises(DataError, match=r"test/cat/0000\.png is 16 x 16 pixels, but the training images are 8 x 8"):
        list(source.stream(["test"]))


def test_a_folder_without_test_is_divided(make_tree: Tree) -> None:
    root = make_tree({"cat": 10, "dog": 20})
    source = folder_without_test(
        list_images(root), Preprocessing.square(4), test_fraction=0.2, seed=3, reserved=["cat/0000.png"]
    )
    names = {split: {item.name for item in source.stream([split])} for split in source.splits}
    assert len(names["test"]) == 6
    assert names["train"] | names["test"] == set(list_images(root).names)
    assert not names["train"] & names["test"]
    assert "cat/0000.png" in names["train"]
    other = folder_without_test(list_images(root), Preprocessing.square(4), test_fraction=0.2, seed=4, reserved=[])
    assert source.fingerprint("train") != other.fingerprint("train")


def test_digits_are_scaled_to_bytes_and_to_three_channels() -> None:
    source = digits(SQUARE, test_fraction=0.2, seed=0, reserved=[])
    grey, labels = load_digits(return_X_y=True)
    for item in source.stream(["test"]):
        label, number = item.name.split("/")
        assert int(label) == labels[int(number)]
        expected = np.rint(grey[int(number)].reshape(8, 8) / 16 * 255)
        np.testing.assert_array_equal(item.image, np.stack([expected] * 3))


def test_digits_are_1797_images_of_side_32() -> None:
    source = digits(None, test_fraction=0.2, seed=0, reserved=[])
    assert source.count(["train", "test"]) == 1797
    assert source.count(["test"]) == 359
    assert next(source.stream(["train"])).image.shape == (3, 32, 32)
    assert source.fingerprint("train") != digits(
        Preprocessing.square(16), test_fraction=0.2, seed=0, reserved=[]
    ).fingerprint("train")


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's files with two classes and six images each, in their own format."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, value: object) -> str:
        content = pickle.dumps(value)
        (folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def batch(first: int) -> dict[str, object]:
        values = np.arange(first, first + 6, dtype=np.uint8)
        return {"data": np.repeat(values[:, None], 3 * 32 * 32, axis=1), "labels": [1, 0, 1, 0, 0, 1]}

    meta = {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": ["airplane", "cat"]})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", write("data_batch_1", batch(10))]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", batch(50))]])
    return folder


def test_cifar_batches_are_read_by_split_and_sorted_by_class(batches: Path) -> None:
    for path in (batches, batches.parent):
        source = CifarBatches.at(path, None)
        found = [(item.name, int(item.image[0, 0, 0])) for item in source.stream(["test"])]
        assert found == [
            ("airplane/00001", 51),
            ("airplane/00003", 53),
            ("airplane/00004", 54),
            ("cat/00000", 50),
            ("cat/00002", 52),
            ("cat/00005", 55),
        ]
        assert next(source.stream(["train"])).image.shape == (3, 32, 32)
    assert source.fingerprint("train") != source.fingerprint("test")


def test_damaged_or_absent_cifar_batches_are_told(batches: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder cifar-10-batches-py in .*; unpack"):
        CifarBatches.at(batches / "absent", None)
    (batches / "test_batch").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or damaged .*unpack .* again"):
        list(CifarBatches.at(tmp_path, None).stream(["train"]))
