from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from slimsight.compress.data import content
from slimsight.compress.data import index as module
from slimsight.compress.data.content import digests_of_files
from slimsight.compress.data.index import FileIndex, open_index
from slimsight.compress.data.listing import FolderFilter, list_images
from slimsight.compress.data.lists import read_labels
from slimsight.compress.errors import DataError


def opened(photos: Path, tmp_path: Path, chosen: FolderFilter | None = None) -> FileIndex:
    return open_index(photos / "train", tmp_path / "cache", selection=chosen or FolderFilter(photos))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were listed, one after the other."""
    found: list[str] = []
    scan = module.scan_class

    def spy(root: Path, label: str, skip: frozenset[str]) -> object:
        found.append(label)
        return scan(root, label, skip)

    monkeypatch.setattr(module, "scan_class", spy)
    return found


def test_an_index_is_the_listing(photos: Path, tmp_path: Path) -> None:
    (photos / "train/n02/deep").mkdir()
    shutil.copy(photos / "train/n02/n02_00.JPEG", photos / "train/n02/deep/x.png")
    (photos / "train/n02/.hidden.JPEG").write_bytes(b"")
    (photos / "train/n02/notes.txt").write_text("")
    found, slow = opened(photos, tmp_path), list_images(photos / "train")
    assert tuple(found.names.to_list()) == slow.names
    assert len(found) == 61
    assert [found.classes[label] for label in found.labels] == [name.split("/")[0] for name in slow.names]
    assert pickle.loads(pickle.dumps(found.names))[60] == slow.names[60]


def test_it_is_listed_once_and_again_when_a_folder_changes(photos: Path, tmp_path: Path, built: list[str]) -> None:
    first_names = opened(photos, tmp_path).names.to_list()
    assert built == ["n01", "n02", "n03"]
    assert opened(photos, tmp_path).names.to_list() == first_names
    assert len(built) == 3
    extra = photos / "train/n02/extra.JPEG"
    shutil.copy(photos / "train/n02/n02_00.JPEG", extra)
    second = opened(photos, tmp_path)
    assert (len(built), len(second)) == (6, 61)
    assert set(second.names.to_list()) - set(first_names) == {"n02/extra.JPEG"}
    extra.unlink()
    assert opened(photos, tmp_path).names.to_list() == first_names
    assert len(built) == 9
    shutil.copytree(photos / "train/n02", photos / "train/n04")
    assert opened(photos, tmp_path).classes == ("n01", "n02", "n03", "n04")


def test_a_change_that_its_time_does_not_show_is_counted(photos: Path, tmp_path: Path, built: list[str]) -> None:
    """Where the folder had changed just before it was listed, as on a file system with coarse times."""
    opened(photos, tmp_path)
    folder = photos / "train/n01"
    before = folder.stat().st_mtime_ns
    (folder / "n01_00.JPEG").unlink()
    os.utime(folder, ns=(before, before))
    assert len(opened(photos, tmp_path)) == 59
    assert len(built) == 6


def digests(root: Path, cache: Path) -> list[bytes]:
    index = open_index(root / "train", cache, selection=FolderFilter(root))
    return [row.tobytes() for row in digests_of_files(index, cache)]


def test_the_content_of_files_is_known_and_read_again_only_where_they_changed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, read = tmp_path / "cache", list[str]()
    real = content._file_digest
    monkeypatch.setattr(content, "_file_digest", lambda path: read.append(Path(path).name) or real(path))
    monkeypatch.setattr(content, "_MTIME_RESOLUTION_NS", -(10**12))  # as if all had been written long ago
    for file in photos.rglob("*.JPEG"):
        os.utime(file, ns=(0, 10**18))
    first = digests(photos, cache)
    assert len(read) == len(first) == 60
    assert first[0] == hashlib.blake2b((photos / "train/n01/n01_00.JPEG").read_bytes(), digest_size=16).digest()
    assert (digests(photos, cache), len(read)) == (first, 60)
    os.utime(photos / "train/n01/n01_00.JPEG", ns=(0, 2 * 10**18))  # in the future: it may still be written
    shutil.copy(photos / "train/n02/n02_00.JPEG", photos / "train/n02/n02_000.JPEG")
    read.clear()
    second = digests(photos, cache)
    assert sorted(read) == ["n01_00.JPEG", "n02_000.JPEG"]
    assert second[:21] == first[:21]
    assert second[21] == first[20]
    assert digests(Path(shutil.copytree(photos, tmp_path / "copy")), cache) == second
    stored = next(cache.glob("contents-*.npz"))
    stored.write_bytes(stored.read_bytes()[:100])
    assert digests(photos, cache) == second


@pytest.mark.parametrize("file", ["names.npy", "ends.npy", "labels.npy", "meta.json"])
def test_a_damaged_index_is_made_again(photos: Path, tmp_path: Path, built: list[str], file: str) -> None:
    first = opened(photos, tmp_path)
    names, path = first.names.to_list(), first.names.folder / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    again = opened(photos, tmp_path)
    assert again.names.to_list() == names
    assert again.classes == first.classes
    assert again.labels.tolist() == first.labels.tolist()
    assert not list((tmp_path / "cache").glob(".*"))


def test_classes_and_skipped_files_are_left_out(photos: Path, tmp_path: Path) -> None:
    chosen = FolderFilter(photos, ("n01", "n03"), frozenset({"train/n01/n01_05.JPEG", "val/n01/n01_06.JPEG"}))
    found = opened(photos, tmp_path, chosen)
    assert (len(found), found.classes) == (39, ("n01", "n03"))
    assert "n01/n01_05.JPEG" not in found.names.to_list()
    with pytest.raises(DataError, match=r"data\.classes names n09, but .*/train holds no folder of that name"):
        opened(photos, tmp_path, FolderFilter(photos, ("n01", "n09")))


def test_an_empty_file_and_an_empty_class_are_named(photos: Path, tmp_path: Path) -> None:
    (photos / "train/n02/n02_07.JPEG").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"n02_07\.JPEG is empty \(0 bytes\); replace it, or name it in a file for data"
    ):
        opened(photos, tmp_path)
    shutil.rmtree(photos / "train/n02")
    (photos / "train/n02").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/n02 holds no images"):
        opened(photos, tmp_path)


def test_what_is_held_out_is_computed_once(photos: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> set[str]:
        calls.append(1)
        return {"n01/n01_03.JPEG"}

    for _ in range(2):
        mask = opened(photos, tmp_path).holdout_mask(compute, what="test", seed=0)
        assert np.flatnonzero(mask).tolist() == [3]
    assert len(calls) == 1
    opened(photos, tmp_path).holdout_mask(compute, what="test", seed=1)
    assert len(calls) == 2


def flat(photos: Path) -> None:
    """val/ without class folders, and val.txt."""
    lines = []
    for path in sorted((photos / "val").glob("*/*")):
        path.rename(photos / "val" / path.name)
        lines.append(f"{path.name} {path.parent.name}\n")
    for folder in (photos / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()
    (photos / "val.txt").write_text("".join(reversed(lines)))


def test_a_flat_folder_is_read_by_its_list(photos: Path, tmp_path: Path) -> None:
    flat(photos)
    labels, classes = read_labels(photos / "val.txt"), ("n01", "n02", "n03")

    def of(chosen: FolderFilter) -> FileIndex:
        return open_index(photos / "val", tmp_path / "cache", selection=chosen, labels=labels, classes=classes)

    found = of(FolderFilter(photos))
    assert found.names[5] == "n02_01.JPEG"
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    part = of(FolderFilter(photos, ("n01", "n03"), frozenset({"val/n03_00.JPEG"})))
    assert (part.classes, part.labels.tolist()) == (("n01", "n03"), [0] * 4 + [1] * 3)
    shutil.copy(photos / "val/n01_00.JPEG", photos / "val/new.JPEG")
    with pytest.raises(DataError, match=r"val\.txt has no label for .*val/new\.JPEG; add it, or name it in data\.skip"):
        of(FolderFilter(photos))
    (photos / "val/n01").mkdir()
    with pytest.raises(DataError, match=r"data\.test_labels is for a folder without subfolders, but .* holds folders"):
        of(FolderFilter(photos))
