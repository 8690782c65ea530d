from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from slimsight.compress.data.archive import ArchiveSource
from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.errors import DataError

SPLITS = ("train", "test")
Pack = Callable[..., Path]


def names(path: Path, splits: tuple[str, ...] = SPLITS) -> list[tuple[str, str]]:
    return [(item.split, item.name) for item in ArchiveSource(path, None).stream(splits)]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("inside", [".", "project-main"])
def test_every_image_is_read_whatever_the_packing(
    tree: Path, tmp_path: Path, pack_tree: Pack, mode: str, inside: str
) -> None:
    found = names(pack_tree(tree, tmp_path / "packed", mode, inside))
    assert len(found) == 26
    assert sorted(found)[0] == ("test", "cat/0000.png")
    assert names(tmp_path / "packed", ("test",)) == [item for item in found if item[0] == "test"]


def test_two_compressed_streams_in_a_file_are_one_archive(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    import lzma

    plain = pack_tree(tree, tmp_path / "plain.tar", "w").read_bytes()
    path = tmp_path / "tree.tar.xz"
    path.write_bytes(lzma.compress(plain[:9000]) + lzma.compress(plain[9000:]))
    assert len(names(path)) == 26


def test_hidden_and_other_files_are_ignored(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    for stray in ("train/.hidden/1.png", "train/cat/._0001.png", "train/cat/notes.txt", "train/stray.png"):
        (tree / stray).parent.mkdir(exist_ok=True)
        (tree / stray).write_bytes(b"no image")
    assert len(names(pack_tree(tree, tmp_path / "tree.tar"))) == 26


def test_a_class_may_be_called_test(make_tree: Callable[..., Path], tmp_path: Path, pack_tree: Pack) -> None:
    root = make_tree({f"{split}/{label}": 2 for split in SPLITS for label in ("cat", "dog")})
    for split in SPLITS:
        (root / split / "cat").rename(root / split / "test")
    found = names(pack_tree(root, tmp_path / "tree.tar"))
    assert sorted(found)[-1] == ("train", "test/0001.png")
    assert len(found) == 8


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_cut_off_archive_is_refused(tree: Path, tmp_path: Path, pack_tree: Pack, mode: str, share: float) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar", mode)
    content = path.read_bytes().rstrip(b"\0") if mode == "w" else path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"tree\.tar cannot be read as a \.tar.*; download or make it again"):
        names(path)


def test_an_archive_cut_between_two_members_is_refused(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar", "w")
    with tarfile.open(path) as tar:
        start = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:start])
    with pytest.raises(DataError, match="it ends in the middle"):
        names(path)


@pytest.mark.parametrize("content", [b"", b"not an archive" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tree.tar.xz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a \.tar"):
        names(path)


def test_an_archive_without_train_is_refused(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    (tree / "train").rename(tree / "learning")
    with pytest.raises(DataError, match="holds no train/<class>/ folders with images; an image tree holds"):
        names(pack_tree(tree, tmp_path / "tree.tar"))


def test_an_empty_class_is_named(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    (tree / "train/eel").mkdir()
    with pytest.raises(DataError, match="train/eel holds no images; add images"):
        names(pack_tree(tree, tmp_path / "tree.tar"))


def test_classes_must_be_those_of_the_other_split(
    make_tree: Callable[..., Path], tmp_path: Path, pack_tree: Pack
) -> None:
    root = make_tree({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/eel": 2})
    with pytest.raises(DataError, match=r"test/ lacks dog and .*train/ lacks eel"):
        names(pack_tree(root, tmp_path / "tree.tar"))


def test_links_and_repeated_images_are_refused(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar", "w")
    with tarfile.open(path, "a") as tar:
        tar.add(tree / "train/cat/0000.png", "./train/cat/0000.png")
    with pytest.raises(DataError, match=r"train/cat/0000\.png is in the archive twice"):
        names(path)
    path = pack_tree(tree, tmp_path / "linked.tar", "w")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("./train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0000.png"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"link\.png is a link; make the archive again with --dereference"):
        names(path)


def test_a_corrupt_image_is_named(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar", "w")
    with tarfile.open(path, "a") as tar:
        broken = tarfile.TarInfo("./test/dog/broken.png")
        broken.size = 4
        tar.addfile(broken, io.BytesIO(b"oops"))
    with pytest.raises(DataError, match=r"tree\.tar: \./test/dog/broken\.png is not an image"):
        names(path)


def test_the_fingerprint_follows_the_file(tree: Path, tmp_path: Path, pack_tree: Pack) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar")
    before = ArchiveSource(path, None).fingerprint("train")
    assert before != ArchiveSource(path, None).fingerprint("test")
    assert before != ArchiveSource(path, Preprocessing.square(16)).fingerprint("train")
    path.write_bytes(path.read_bytes() + b"\0")
    assert before != ArchiveSource(path, None).fingerprint("train")
