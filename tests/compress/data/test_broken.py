from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.config import DataConfig
from slimsight.compress.data import broken, open_splits
from slimsight.compress.data.broken import BrokenFile, find_broken, is_skip_list, write_skip_list
from slimsight.compress.data.lists import read_skip
from slimsight.compress.errors import BrokenImage, DataError

Tree = Callable[..., Path]
BROKEN = ("train/cat/0001.png", "train/dog/page.jpg", "val/dog/zero.jpg", "test/cat/deep.png")


@pytest.fixture
def damaged(make_tree: Tree) -> Path:
    """Three splits of two classes with a truncated, an HTML, an empty and a 16-bit image."""
    root = make_tree({f"{split}/{label}": 10 for split in ("train", "val", "test") for label in ("cat", "dog")})
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "PNG")
    (root / "train/cat/0001.png").write_bytes(content.getvalue()[:-900])
    (root / "train/dog/page.jpg").write_bytes(b"<html>404</html>")
    (root / "val/dog/zero.jpg").write_bytes(b"")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(root / "test/cat/deep.png")
    return root


def config(path: Path, kind: str = "folder", **options: Any) -> DataConfig:
    settings: dict[str, Any] = {"source": "image_folder", "path": path, "image_size": 8}
    if kind == "on_the_fly":
        settings["decode"] = kind
    if kind in ("tree", "archive"):
        settings["source"] = "image_tree"
    return DataConfig(**settings, **options)


def place(root: Path, kind: str, pack_tree: Tree) -> Path:
    return pack_tree(root, root.with_suffix(".tar"), "w", "photos") if kind == "archive" else root


KINDS = ("folder", "tree", "archive", "on_the_fly")


@pytest.mark.parametrize("kind", KINDS)
def test_all_broken_images_of_all_splits_are_found(damaged: Path, kind: str, pack_tree: Tree) -> None:
    found = find_broken(config(place(damaged, kind, pack_tree), kind))
    assert found is not None
    assert [each.name for each in found] == sorted(BROKEN)
    by_name = {each.name: each.reason for each in found}
    assert by_name["train/dog/page.jpg"] == "not an image"
    assert by_name["val/dog/zero.jpg"] == "empty (0 bytes)"
    assert "truncated" in by_name["train/cat/0001.png"]
    assert by_name["test/cat/deep.png"].startswith("mode I")


@pytest.mark.parametrize("kind", KINDS)
def test_opening_names_them_all_and_the_list_leaves_them_out(
    damaged: Path, kind: str, pack_tree: Tree, tmp_path: Path
) -> None:
    path = place(damaged, kind, pack_tree)
    with pytest.raises(BrokenImage, match=r"4 images in .* cannot be read: ") as error:
        open_splits(config(path, kind), cache_dir=tmp_path / "cache", seed=0)
    assert all(name in str(error.value) for name in BROKEN)
    assert "slimsight init --skip-broken" in str(error.value)
    listed = tmp_path / "skip.txt"
    write_skip_list(listed, find_broken(config(path, kind)) or ())
    assert is_skip_list(listed)
    assert read_skip(listed) == set(BROKEN)
    splits = open_splits(config(path, kind, skip=listed), cache_dir=tmp_path / "cache", seed=0)
    assert (len(splits.train), len(splits.val), len(splits.test())) == (19, 20, 20)
    assert np.asarray(splits.train.images).shape == (19, 3, 8, 8)
    assert find_broken(config(path, kind, skip=listed)) == ()


@pytest.mark.parametrize("count", [10, 11, 25])
def test_ten_are_named_and_the_others_counted(make_tree: Tree, tmp_path: Path, count: int) -> None:
    root = make_tree({"cat": 40, "dog": 40})
    for number in range(count):
        (root / f"cat/{number:04d}.png").write_bytes(b"none")
    with pytest.raises(BrokenImage, match=f"{count} images in .* cannot be read") as error:
        open_splits(config(root), cache_dir=tmp_path / "cache", seed=0)
    text = str(error.value)
    assert text.count("(not an image)") == 10
    assert (f" and {count - 10} more; replace" in text) == (count > 10)


def test_a_single_one_is_named_as_before_with_the_way_out(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"cat": 4, "dog": 4})
    (root / "cat/0001.png").write_bytes(b"none")
    with pytest.raises(BrokenImage, match=r"cat/0001\.png is not an image that can be read.*init --skip-broken"):
        open_splits(config(root), cache_dir=tmp_path / "cache", seed=0)


def test_links_to_nowhere_are_broken_images(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"cat": 4, "dog": 4})
    for number in range(2):
        (root / f"dog/gone{number}.png").symlink_to(root / "nowhere.png")
    with pytest.raises(BrokenImage, match=r"2 images .*dog/gone0\.png \(No such file or directory\), dog/gone1\.png"):
        open_splits(config(root), cache_dir=tmp_path / "cache", seed=0)


def test_in_a_very_large_folder_the_first_is_named_alone(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, "MOST_CHECKED", 20)
    assert find_broken(config(damaged)) is None
    with pytest.raises(BrokenImage, match=r"train/cat/0001\.png cannot be decoded .*others were not looked for"):
        open_splits(config(damaged), cache_dir=tmp_path / "cache", seed=0)


@pytest.mark.parametrize("name", ["#1.png", " a.png", "a\n.png", "a\u2028.png", "a\udcff.png"])
def test_a_name_that_no_line_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be written as a line of data\.skip; remove or rename it"):
        write_skip_list(tmp_path / "skip.txt", [BrokenFile(name, "not an image")])
    assert not (tmp_path / "skip.txt").exists()


def test_only_lists_of_init_are_taken_for_such(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("# broken ones\ncat/1.png\n")
    assert not is_skip_list(own)
    assert not is_skip_list(tmp_path / "absent.txt")
