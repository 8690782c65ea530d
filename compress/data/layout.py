"""Layout of an image folder: the folders of its splits, and the classes and files that a recipe selects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..config import DataConfig
from ..errors import DataError
from .decode import is_image
from .listing import FolderFilter, class_folders
from .lists import Labels, read_classes, read_labels, read_skip
from .partition import check_same_classes


@dataclass(frozen=True)
class Layout:
    """Folders by split (``train``, perhaps ``val`` and ``test``), and the recipe's selection of their files.

    ``labels``: of the test folder's images, if it has no class folders.
    """

    folders: Mapping[str, Path]
    selection: FolderFilter
    labels: Labels | None


def find_layout(config: DataConfig) -> Layout:
    """The layout of an existing folder of source ``image_tree`` or ``image_folder``.

    Raises:
        DataError: a split is missing, or a list file of the recipe cannot be used.
    """
    assert config.path is not None, "DataConfig requires a path"
    folders = _tree_splits(config.path) if config.source == "image_tree" else _folder_splits(config.path)
    if config.test_labels is not None and "test" not in folders:
        raise DataError(
            f"data.test_labels {config.test_labels} is given, but {config.path} holds no folder for it: put the images "
            "that it lists into val/ (or test/) beside train/<class>/"
        )
    labels = None if config.test_labels is None else read_labels(config.test_labels)
    skip = frozenset[str]() if config.skip is None else read_skip(config.skip)
    classes = None if config.classes is None else read_classes(config.classes, class_folders(folders["train"]))
    return Layout(folders, FolderFilter(config.path, classes, skip), labels)


def check_folders(folders: Mapping[str, Path], selection: FolderFilter | None, labels: Labels | None) -> list[str]:
    """The selected classes, by the names of their training folders.

    Raises:
        DataError: another split has different classes.
    """
    selected = None if selection is None else selection.classes
    classes = class_folders(folders["train"], selected)
    for split, root in folders.items():
        assert split in ("train", "val", "test")
        if split == "test" and labels is not None:
            continue
        _refuse_flat(root, split)
        check_same_classes(classes, class_folders(root, selected), str(folders["train"]), str(root))
    return classes


def refuse_archive(config: DataConfig) -> None:
    """Raise DataError if a recipe sets options for an archive that only work for folders."""
    for name, given in (("classes", config.classes), ("skip", config.skip)):
        if given is not None:
            raise DataError(f"data.{name} is for folders, but {config.path} is an archive; unpack it, or leave it out")
    if config.decode == "on_the_fly":
        raise DataError(
            f"data.decode is on_the_fly, but {config.path} is an archive, which is read from front to back; unpack it, "
            "or choose decode: once"
        )


def refuse_val_list(config: DataConfig) -> NoReturn:
    """Raise DataError for a val_list beside a val/ folder."""
    raise DataError(
        f"val_list {config.val_list} is given, but {config.path} has a val/ folder beside test/: "
        "leave val_list out, or move the folder away"
    )


def _refuse_flat(root: Path, split: str) -> None:
    if split == "train" or not root.is_dir() or any(entry.is_dir() for entry in root.iterdir()):
        return
    if any(is_image(entry.name) for entry in root.iterdir()):
        raise DataError(
            f"{root} holds images without class folders; say which class each is with data.test_labels, a file with "
            "'file class' per line (such as LOC_val_solution.csv), or sort them into folders named after the classes"
        )


def _tree_splits(path: Path) -> dict[str, Path]:
    folders = {split: path / split for split in ("train", "test")}
    for folder in folders.values():
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}; an image tree holds train/<class>/* and test/<class>/* "
                "(source image_folder splits other folders itself)"
            )
    return folders


def _folder_splits(path: Path) -> dict[str, Path]:
    """train/, val/ and test/, or only class folders. As for ImageNet, val/ without test/ is the test set."""
    present = {split: path / split for split in ("train", "val", "test") if (path / split).is_dir()}
    if present and "train" not in present and not _has_other_folders(path, present):
        raise DataError(f"{path} holds {', '.join(present)} but no train/; add train/<class>/* beside them")
    if "train" not in present or _train_is_a_class(path, present):
        return {"train": path}
    if "test" in present:
        return present
    if "val" in present:
        return {"train": present["train"], "test": present["val"]}
    return present


def _has_other_folders(path: Path, splits: Collection[str]) -> bool:
    """Whether there are visible folders beside those of the splits."""
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return any(name not in splits and not name.startswith(".") for name in names)


def _train_is_a_class(path: Path, splits: Collection[str]) -> bool:
    """Whether path/train is a class folder of that name: it holds images and has other folders beside it."""
    return _has_other_folders(path, splits) and any(
        entry.is_file() and is_image(entry.name) for entry in (path / "train").iterdir()
    )
