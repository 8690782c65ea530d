"""Folders of images without labels: flat or nested, all are one pool that the seed divides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from slimsight.compress.config import DataConfig
from slimsight.compress.data import Splits, open_splits
from slimsight.compress.data.broken import find_broken
from slimsight.compress.errors import DataError

COUNTS = {"cat": 6, "deep/dog": 5, "deep/er/eel": 9}


def opened(root: Path, cache: Path, *, seed: int = 0, **settings: Any) -> Splits:
    config = DataConfig.model_validate(
        {"source": "image_folder", "labels": "none", "path": root, "image_size": 8, **settings}
    )
    return open_splits(config, cache_dir=cache, seed=seed)


def pixels(splits: Splits) -> list[Any]:
    return [np.asarray(images.images) for images in (splits.train, splits.val, splits.test())]


def test_all_images_are_divided_by_the_seed(make_tree: Any, tmp_path: Path) -> None:
    root = make_tree(COUNTS)
    splits = opened(root, tmp_path / "cache", val_fraction=0.25)
    assert (len(splits.train), len(splits.val), len(splits.test())) == (12, 4, 4)
    assert splits.classes == ("images",)
    assert not splits.train.labels.any()
    found = np.concatenate(pixels(splits)).reshape(20, -1)
    assert len(np.unique(found, axis=0)) == 20
    again, other = opened(root, tmp_path / "cache"), opened(root, tmp_path / "cache", seed=1)
    assert np.array_equal(again.test().images, splits.test().images)
    assert not np.array_equal(other.test().images, splits.test().images)


def test_images_that_stay_files_are_divided_alike(make_tree: Any, tmp_path: Path) -> None:
    root = make_tree(COUNTS)
    once, files = (opened(root, tmp_path / "cache", decode=decode) for decode in ("once", "on_the_fly"))
    for first, second in zip(pixels(once), pixels(files), strict=True):
        assert np.array_equal(first, second)


def test_a_flat_folder_without_its_skipped_images(make_tree: Any, tmp_path: Path) -> None:
    root = make_tree({"cat": 6}) / "cat"
    (root / "0001.png").write_bytes(b"<html>")
    (tmp_path / "skip.txt").write_text("0001.png\n")
    config = DataConfig.model_validate({"source": "image_folder", "labels": "none", "path": root, "image_size": 8})
    broken = find_broken(config)
    assert broken is not None
    assert [each.name for each in broken] == ["0001.png"]
    for decode in ("once", "on_the_fly"):
        splits = opened(root, tmp_path / "cache", skip=tmp_path / "skip.txt", decode=decode)
        assert len(splits.train) + len(splits.val) + len(splits.test()) == 5


def test_what_cannot_be_divided_is_refused(make_tree: Any, tmp_path: Path) -> None:
    for decode in ("once", "on_the_fly"):
        with pytest.raises(DataError, match=r"holds 2 images .* without labels at least 3 are needed"):
            opened(make_tree({"cat": 2}, f"two-{decode}"), tmp_path / "cache", decode=decode)
        with pytest.raises(DataError, match=r"holds Train/ and test/, and .* \(data.path: .*Train\)"):
            opened(make_tree({"Train": 0, "test": 0}, f"split-{decode}"), tmp_path / "cache", decode=decode)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "image_tree"}, "labels: none takes a folder of images: choose source image_folder, not image_tree"),
        ({"val_list": "v.txt"}, "labels is none and 'val_list' is given, which is about class folders"),
        ({"classes": "c.txt"}, "labels is none and 'classes' is given"),
        ({"test_labels": "t.txt"}, "labels is none and 'test_labels' is given"),
        ({"val_is_test": True}, "labels is none and val_is_test is true"),
    ],
)
def test_settings_about_labels_are_refused(settings: dict[str, Any], message: str) -> None:
    given = {"source": "image_folder", "labels": "none", "path": "x", "image_size": 8, **settings}
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(given)
