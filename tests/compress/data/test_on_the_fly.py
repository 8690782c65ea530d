from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimsight.compress.config import DataConfig
from slimsight.compress.data import ImageSet, Splits, open_splits
from slimsight.compress.errors import DataError

from .test_index import flat


def splits_of(tmp_path: Path, path: Path, *, seed: int = 0, **options: Any) -> Splits:
    settings = {"source": "image_folder", "path": path, "image_size": 16, "decode": "on_the_fly", **options}
    return open_splits(DataConfig(**settings), cache_dir=tmp_path / "cache", seed=seed)


def close(first: ImageSet, second: ImageSet) -> None:
    """The same images in the same order; windows that are scaled in one step differ by little."""
    assert first.classes == second.classes
    assert first.labels.tolist() == second.labels.tolist()
    assert np.abs(np.asarray(first.images).astype(int) - np.asarray(second.images)).mean() < 2


@pytest.mark.parametrize("layout", ["classes alone", "train alone", "train and val"])
def test_the_splits_are_those_of_images_that_are_decoded_once(photos: Path, tmp_path: Path, layout: str) -> None:
    path = photos / "train" if layout == "classes alone" else photos
    if layout == "train alone":
        (photos / "val").rename(tmp_path / "away")
    for options in ({}, {"subset": 0.25}, {"val_fraction": 0.3, "seed": 3}):
        fly, once = (splits_of(tmp_path, path, decode=decode, **options) for decode in ("on_the_fly", "once"))
        close(fly.train, once.train)
        close(fly.val, once.val)
        assert fly.has_test == once.has_test == (layout != "train and val")
        if fly.has_test:
            close(fly.test(), once.test())
    assert fly.image_size == 16


def test_a_val_folder_beside_test_and_a_list_are_taken(photos: Path, tmp_path: Path) -> None:
    (photos / "val").rename(photos / "test")
    listed = tmp_path / "val.txt"
    listed.write_text("n01/n01_03.JPEG\nn02/n02_04.JPEG\n")
    for decode in ("on_the_fly", "once"):
        splits = splits_of(tmp_path, photos, decode=decode, val_list=listed)
        assert splits.val.labels.tolist() == [0, 1]
        tree = splits_of(tmp_path, photos, decode="on_the_fly", source="image_tree", val_list=listed)
    close(splits.train, tree.train)


@pytest.mark.parametrize("decode", ["on_the_fly", "once"])
def test_a_flat_test_folder_some_classes_and_a_share_of_them(photos: Path, tmp_path: Path, decode: str) -> None:
    flat(photos)
    (tmp_path / "classes.txt").write_text("n03 third\nn01 first\n")
    (tmp_path / "skip.txt").write_text("train/n01/n01_00.JPEG\nval/n03_02.JPEG\n")
    lists = {"classes": tmp_path / "classes.txt", "skip": tmp_path / "skip.txt", "test_labels": photos / "val.txt"}
    whole = splits_of(tmp_path, photos, decode=decode, **lists)
    part = splits_of(tmp_path, photos, decode=decode, subset=0.5, **lists)
    assert whole.classes == part.classes == ("n01", "n03")
    assert np.bincount(whole.train.labels).tolist() == [17, 18]
    assert np.bincount(part.train.labels).tolist() == [8, 9]
    assert whole.val.labels.tolist() == part.val.labels.tolist() == [0, 0, 1, 1]
    assert whole.test().labels.tolist() == part.test().labels.tolist() == [0] * 4 + [1] * 3
    with pytest.raises(DataError, match=r"val holds images without class folders; say which .* data\.test_labels"):
        splits_of(tmp_path, photos, decode=decode)


def test_what_cannot_be_is_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = splits_of(tmp_path, photos, image_size=4096)
    monkeypatch.setattr("slimsight.compress.data.on_the_fly._MAX_BYTES", 2**30)
    with pytest.raises(DataError, match=r"60 images of 4096 x 4096 pixels would take 3 GB of memory at once"):
        np.asarray(splits.train.images)
    with pytest.raises(DataError, match=r"data path .*absent does not exist; give the folder"):
        splits_of(tmp_path, tmp_path / "absent")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"decode is on_the_fly, but .*a\.tar is an archive.*unpack it"):
        splits_of(tmp_path, tmp_path / "a.tar", source="image_tree")
    with pytest.raises(DataError, match=r"test_labels .* is given, but .*train holds no folder for it"):
        splits_of(tmp_path, photos / "train", test_labels=tmp_path / "a.tar")
