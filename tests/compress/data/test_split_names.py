from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.config import DataConfig
from slimsight.compress.data import Splits, open_splits
from slimsight.compress.data.split_names import paired_splits, resembles_split, split_of
from slimsight.compress.errors import DataError

Tree = Callable[..., Path]
CLASSES = ("cat", "dog")
KINDS = ("folder", "tree", "archive", "on_the_fly")
COUNTS = {"train": 20, "val": 5, "test": 3}


@pytest.fixture
def opened(make_tree: Tree, pack_tree: Tree, tmp_path: Path) -> Callable[..., Splits]:
    """``opened(kind, {"train": "Training", ...})``: the splits of folders of these names."""

    def open_(kind: str, names: dict[str, str], **options: Any) -> Splits:
        root = make_tree({f"{name}/{label}": COUNTS[split] for split, name in names.items() for label in CLASSES})
        settings = {
            "folder": {"source": "image_folder", "path": root, "image_size": 8},
            "tree": {"source": "image_tree", "path": root},
            "archive": {"source": "image_tree", "path": root.with_suffix(".tar")},
            "on_the_fly": {"source": "image_folder", "path": root, "image_size": 8, "decode": "on_the_fly"},
        }[kind]
        if kind == "archive":
            pack_tree(root, root.with_suffix(".tar"), "w", "photos")
        return open_splits(DataConfig(**settings, **options), cache_dir=tmp_path / "cache", seed=0)

    return open_


def sizes(splits: Splits) -> tuple[int, int, int | None]:
    return len(splits.train), len(splits.val), len(splits.test()) if splits.has_test else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "dev", "TESTING"),
    ],
)
def test_all_three_splits_are_used_whatever_their_usual_names(
    opened: Callable[..., Splits], kind: str, names: tuple[str, ...]
) -> None:
    splits = opened(kind, dict(zip(COUNTS, names, strict=True)))
    assert sizes(splits) == (40, 10, 6)
    assert splits.classes == CLASSES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("training", "testing")])
def test_without_a_validation_folder_a_share_of_train_validates(
    opened: Callable[..., Splits], kind: str, names: tuple[str, ...]
) -> None:
    splits = opened(kind, {"train": names[0], "test": names[1]})
    assert sizes(splits) == (36, 4, 6)
    assert splits.classes == CLASSES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("train", "val"), ("Train", "VALIDATION"), ("training", "valid"), ("train", "dev")])
def test_the_users_validation_images_validate_and_nothing_is_tested(
    opened: Callable[..., Splits], kind: str, names: tuple[str, ...]
) -> None:
    splits = opened(kind, {"train": names[0], "val": names[1]})
    assert sizes(splits) == (40, 10, None)
    with pytest.raises(
        DataError, match=r"there are no test images: .*add test/<class>/\* beside them, or set data\.val_is"
    ):
        splits.test()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_may_say_that_val_is_the_test_set(opened: Callable[..., Splits], kind: str) -> None:
    assert sizes(opened(kind, {"train": "train", "val": "val"}, val_is_test=True)) == (36, 4, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("train", "test"), ("train", "val", "test")])
def test_val_is_the_test_set_only_where_there_is_no_other(
    opened: Callable[..., Splits], kind: str, names: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match=r"data\.val_is_test is true, but .* has a test/ folder of its own"):
        opened(kind, {name: name for name in names}, val_is_test=True)


@pytest.mark.parametrize("folders", [("train/cat", "train/dog"), CLASSES])
def test_without_val_it_cannot_be_the_test_set(make_tree: Tree, tmp_path: Path, folders: tuple[str, str]) -> None:
    root = make_tree(dict.fromkeys(folders, 4))
    config = DataConfig(source="image_folder", path=root, image_size=8, val_is_test=True)
    with pytest.raises(DataError, match=r"data\.val_is_test is true, but .* has no val/ folder"):
        open_splits(config, cache_dir=tmp_path / "cache", seed=0)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("names", [("val", "validation"), ("Val", "val"), ("valid", "dev"), ("test", "Testing")])
def test_two_names_of_one_split_are_refused(
    make_tree: Tree, pack_tree: Tree, tmp_path: Path, names: tuple[str, str], archive: bool
) -> None:
    splits = ("train", "test") if "test" not in names else ("train",)
    root = make_tree({f"{name}/{label}": 3 for name in (*splits, *names) for label in CLASSES})
    settings: dict[str, Any] = {"source": "image_folder", "path": root, "image_size": 8}
    if archive:
        settings = {"source": "image_tree", "path": pack_tree(root, tmp_path / "a.tar", "w")}
    first, second = sorted(names)
    with pytest.raises(DataError, match=rf"holds {first}/ and {second}/, which are two names of one split"):
        open_splits(DataConfig(**settings), cache_dir=tmp_path / "cache", seed=0)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("training_set", "test_set"), r"holds test_set, training_set: they look like splits"),
        (("train2017", "val2017"), r"holds train2017, val2017: they look like splits"),
        (("cat", "dog", "eval"), r"holds eval beside cat, dog: it looks like a split of the images"),
        (("cat", "dog", "val"), r"holds val beside cat, dog: it looks like a split"),
        (("cat", "dog", "Testing"), r"holds Testing beside cat, dog: it looks like a split"),
        (("train", "test", "holdout"), r"holds holdout: it looks like a split"),
        (("train", "test", "my-test-images"), r"holds my-test-images: it looks like a split"),
        (("seg_train", "seg_test", "seg_pred"), r"holds seg_test, seg_train beside seg_pred: they look like splits"),
        (("trainA", "testA", "trainB", "testB"), r"holds testA, testB, trainA and 1 more: they look like splits"),
        (("cat", "dog", "Development"), r"holds Development beside cat, dog: it looks like a split"),
        (("trn", "tst"), r"holds trn, tst: they look like splits"),
        (("val", "test"), r"holds val, test but no train/; add train/<class>"),
        (("train", "test", "cat"), r"holds cat/ beside train/, and train/ has a class of that name"),
        (("train", "test", "raw"), r"holds raw/ beside train/, with the same class folders \(cat, dog\)"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_refused(
    make_tree: Tree, tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    tree = {f"{name}/{label}": 3 for name in folders if name not in CLASSES for label in CLASSES}
    root = make_tree({**tree, **{name: 3 for name in folders if name in CLASSES}})
    for options in ({}, {"decode": "on_the_fly"}):
        config = DataConfig(source="image_folder", path=root, image_size=8, **options)
        with pytest.raises(DataError, match=message):
            open_splits(config, cache_dir=tmp_path / "cache", seed=0)


def test_folders_beside_the_splits_that_hold_no_such_classes_are_ignored(make_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({f"{split}/{label}": 4 for split in ("train", "test") for label in CLASSES})
    for name in ("annotations", "docs/html", ".git"):
        (root / name).mkdir(parents=True)
    config = DataConfig(source="image_folder", path=root, image_size=8)
    assert sizes(open_splits(config, cache_dir=tmp_path, seed=0)) == (6, 2, 8)


def test_a_wrapping_folder_may_have_the_name_of_a_split(make_tree: Tree, pack_tree: Tree, tmp_path: Path) -> None:
    root = make_tree({f"{split}/{label}": 4 for split in ("train", "val") for label in CLASSES})
    path = pack_tree(root, tmp_path / "a.tar", "w", "training")
    assert sizes(open_splits(DataConfig(source="image_tree", path=path), cache_dir=tmp_path, seed=0)) == (8, 8, None)


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        *(
            (name, True)
            for name in (
                "train_set",
                "Test-Data",
                "val.01",
                "trainval",
                "images_test",
                "held-out",
                "EVAL",
                "HoldOut",
                "public_test",
            )
        ),
        *(
            (name, False)
            for name in ("bullet_train", "test tube", "trainers", "valve", "device", "images", "contest", "")
        ),
    ],
)
def test_names_that_are_nearly_those_of_splits(name: str, similar: bool) -> None:
    assert resembles_split(name) == similar


def test_names_that_differ_in_the_word_for_a_split_alone() -> None:
    assert paired_splits(["asl_alphabet_train", "asl_alphabet_test", "readme"]) == [
        "asl_alphabet_test",
        "asl_alphabet_train",
    ]
    assert paired_splits(["ILSVRC-Train", "ILSVRC-Val"]) == ["ILSVRC-Train", "ILSVRC-Val"]
    for classes in (["bullet_train", "bullet"], ["bullet_train", "test_tube"], ["bullet train", "steam train"]):
        assert paired_splits(classes) == []


@pytest.mark.parametrize(("name", "split"), [("TrAiN", "train"), ("dev", "val"), ("Testing", "test"), ("tests", None)])
def test_usual_names_in_any_case(name: str, split: str | None) -> None:
    assert split_of(name) == split
