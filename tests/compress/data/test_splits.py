from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimsight.compress.config import DataConfig
from slimsight.compress.data import ImageSet, Splits, cache, open_splits
from slimsight.compress.data.lists import read_val_list
from slimsight.compress.errors import DataError
from slimsight.compress.progress import Silent

Tree = Callable[..., Path]
SHARED = Path(__file__).parents[4] / "shared" / "data"


def splits_of(tmp_path: Path, seed: int = 0, **options: Any) -> Splits:
    return open_splits(DataConfig(**options), cache_dir=tmp_path / "cache", seed=seed)


def blues(images: ImageSet) -> list[tuple[int, int]]:
    """Label and number of every image of a painted tree."""
    return sorted(zip(images.labels.tolist(), images.images[:][:, 2, 0, 0].tolist(), strict=True))


def everything(count: int) -> list[tuple[int, int]]:
    return [(label, number) for label in (0, 1) for number in range(count)]


def test_an_image_tree_is_split_by_class_and_seed(tree: Path, tmp_path: Path) -> None:
    splits = splits_of(tmp_path, source="image_tree", path=tree, val_fraction=0.2)
    assert splits.classes == ("cat", "dog")
    assert splits.image_size == 8
    assert np.bincount(splits.val.labels).tolist() == [2, 2]
    assert sorted(blues(splits.train) + blues(splits.val)) == everything(10)
    assert blues(splits.test()) == everything(3)
    again, other = (splits_of(tmp_path, seed, source="image_tree", path=tree, val_fraction=0.2) for seed in (0, 1))
    assert blues(again.val) == blues(splits.val)
    assert blues(other.val) != blues(splits.val)


def test_an_archive_gives_what_its_folder_gives(tree: Path, tmp_path: Path, pack_tree: Tree) -> None:
    path = pack_tree(tree, tmp_path / "tree.tar.xz", backwards=True)
    folder, archive = (splits_of(tmp_path, source="image_tree", path=where) for where in (tree, path))
    for first, second in (
        (folder.train, archive.train),
        (folder.val, archive.val),
        (folder.test(), archive.test()),
    ):
        np.testing.assert_array_equal(np.asarray(first.images), np.asarray(second.images))
        np.testing.assert_array_equal(first.labels, second.labels)


def test_test_images_are_decoded_only_when_asked_for(tree: Path, tmp_path: Path) -> None:
    (tree / "test/cat/0000.png").write_bytes(b"broken")
    splits = splits_of(tmp_path, source="image_tree", path=tree)
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["train"]
    with pytest.raises(DataError, match=r"test/cat/0000\.png is not an image"):
        splits.test()
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["train"]


def test_the_test_cache_of_an_archive_is_opened_only_when_asked_for(
    tree: Path, tmp_path: Path, pack_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def spy(place: Path, *given: object, **named: object) -> cache.CachedImages | None:
        opened.append(place.name.split("-")[0])
        return read(place, *given, **named)  # type: ignore[arg-type]

    read = cache.read_cached
    monkeypatch.setattr(cache, "read_cached", spy)
    path = pack_tree(tree, tmp_path / "tree.tar.xz")
    splits = splits_of(tmp_path, source="image_tree", path=path)
    assert set(opened) == {"train"}
    assert splits.test() is splits.test()
    assert opened[-1] == "test"
    assert opened.count("test") == 1


def test_a_list_decides_what_is_validation(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "val.txt"
    listed.write_text("dog/0007.png\ncat/0001.png\n")
    splits = splits_of(tmp_path, source="image_tree", path=tree, val_list=listed)
    assert blues(splits.val) == [(0, 1), (1, 7)]
    assert len(splits.train) == 18
    listed.write_text("dog/0007.png\ncat/0099.png\n")
    with pytest.raises(DataError, match=r"val\.txt names cat/0099\.png, which is not among the training images"):
        splits_of(tmp_path, source="image_tree", path=tree, val_list=listed)


def test_changed_images_are_decoded_again(tree: Path, tmp_path: Path) -> None:
    assert len(splits_of(tmp_path, source="image_tree", path=tree).train) == 18
    (tree / "train/cat/0000.png").unlink()
    splits = splits_of(tmp_path, source="image_tree", path=tree)
    assert len(splits.train) + len(splits.val) == 19


def test_a_tree_without_train_or_test_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "test").rename(tree / "holdout")
    with pytest.raises(DataError, match=r"there is no folder .*tree/test; an image tree holds train/<class>"):
        splits_of(tmp_path, source="image_tree", path=tree)


def test_a_path_that_is_absent_or_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data path .*absent does not exist; give the folder \(or archive\)"):
        splits_of(tmp_path, source="image_tree", path=tmp_path / "absent")
    file = tmp_path / "images.tar"
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"is a file, but source image_folder takes a folder; source image_tree"):
        splits_of(tmp_path, source="image_folder", path=file, image_size=8)


def test_too_few_images_to_split_are_refused(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"train/cat": 5, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    with pytest.raises(DataError, match="class 'dog' has 1 image to share between training and validation"):
        splits_of(tmp_path, source="image_tree", path=root)


FOLDERS = {
    "classes alone": ({"cat": 20, "dog": 20}, (28, 4, 8)),
    "train alone": ({"train/cat": 20, "train/dog": 20}, (28, 4, 8)),
    "train and val": ({"train/cat": 20, "train/dog": 20, "val/cat": 3, "val/dog": 3}, (40, 6, None)),
    "train and test": ({"train/cat": 20, "train/dog": 20, "test/cat": 3, "test/dog": 3}, (36, 4, 6)),
    "all": (
        {"train/cat": 20, "train/dog": 20, "val/cat": 3, "val/dog": 3, "test/cat": 2, "test/dog": 2},
        (40, 6, 4),
    ),
}


@pytest.mark.parametrize("layout", FOLDERS)
def test_image_folders_are_resized_and_split_by_their_layout(make_tree: Tree, tmp_path: Path, layout: str) -> None:
    counts, sizes = FOLDERS[layout]
    root = make_tree(counts, size=(24, 16))
    splits = splits_of(tmp_path, source="image_folder", path=root, image_size=8, val_fraction=0.125)
    assert splits.image_size == 8
    opened = (splits.train, splits.val, splits.test() if splits.has_test else None)
    assert tuple(None if images is None else len(images) for images in opened) == sizes
    for images in filter(None, opened):
        assert images.images[:1].shape == (1, 3, 8, 8)
        assert images.images[:][:, 0, 0, 0].tolist() == [200 if label == 0 else 0 for label in images.labels]


def test_a_class_called_train_is_a_class(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"cat": 5, "dog": 5})
    (root / "cat").rename(root / "train")
    splits = splits_of(tmp_path, source="image_folder", path=root, image_size=8)
    assert splits.classes == ("dog", "train")


def test_val_and_test_without_train_are_not_classes(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({"val/cat": 1, "test/cat": 1})
    with pytest.raises(DataError, match="holds val, test but no train/; add train/<class>"):
        splits_of(tmp_path, source="image_folder", path=root, image_size=8)


def test_a_list_beside_a_val_folder_is_refused(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({f"{split}/{label}": 3 for split in ("train", "val", "test") for label in ("cat", "dog")})
    listed = tmp_path / "val.txt"
    listed.write_text("cat/0001.png\n")
    with pytest.raises(DataError, match=r"val_list .* is given, but .* has a folder of validation images"):
        splits_of(tmp_path, source="image_folder", path=root, image_size=8, val_list=listed)


def test_digits_are_stratified_and_disjoint(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, source="digits")
    sizes = len(splits.train), len(splits.val), len(splits.test())
    assert sum(sizes) == 1797
    assert sizes[2] == 359  # a fifth of every class, rounded
    assert splits.classes == tuple("0123456789")
    assert splits.image_size == 32
    shares = np.bincount(splits.val.labels) / (np.bincount(splits.train.labels) + np.bincount(splits.val.labels))
    np.testing.assert_allclose(shares, 0.1, atol=0.005)
    seen = {splits.train.images[i].tobytes() for i in range(len(splits.train))}
    assert not seen & {image.tobytes() for image in splits.test().images[:]}


def test_decoding_tells_how_many_images_it_will_read(tree: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int | None, str]] = []

    class Listener(Silent):
        def track(self, items: Iterable[Any], what: str, **options: Any) -> Iterator[Any]:
            told.append((what, options["total"], options["unit"]))
            yield from items

    config = DataConfig(source="image_tree", path=tree)
    open_splits(config, cache_dir=tmp_path / "cache", seed=0, progress=Listener()).test()
    assert told == [("decode train", 20, "img"), ("decode test", 6, "img")]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not beside the project")
def test_real_jpegs_in_an_archive_are_read(tmp_path: Path) -> None:
    kept = 0
    path = tmp_path / "some.tar"
    with tarfile.open(SHARED / "cifar10-jpeg.tar.xz", "r|xz") as real, tarfile.open(path, "w") as few:
        for member in real:
            if kept < 60 and member.isreg() and int(Path(member.name).stem) < 30:
                content = real.extractfile(member)
                assert content is not None
                data = content.read()
                for split in ("train", "test"):
                    member.name = f"{split}/{'/'.join(member.name.split('/')[1:])}"
                    few.addfile(member, io.BytesIO(data))
                kept += 1
            if kept == 60:
                break
    splits = splits_of(tmp_path, source="image_tree", path=path)
    assert (len(splits.train), len(splits.val), len(splits.test())) == (54, 6, 60)
    assert splits.image_size == 32
    assert 60 < float(np.asarray(splits.test().images).mean()) < 190


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not beside the project")
def test_the_real_list_holds_5000_images_of_all_classes() -> None:
    listed = read_val_list(SHARED / "cifar10-jpeg.val.txt")
    assert len(set(listed)) == 5000
    assert len({name.split("/")[0] for name in listed}) == 10
