"""Layout of an image folder: the folders of its splits, and the classes and files that a recipe selects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from ..config import DataConfig
from ..errors import DataError
from .decode import is_image, is_left_out
from .listing import FolderFilter, class_folders
from .lists import Labels, read_classes, read_labels, read_skip
from .partition import check_same_classes
from .split_names import FolderContent, find_splits, split_of

T = TypeVar("T")


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
    skip = frozenset[str]() if config.skip is None else read_skip(config.skip)
    if config.labels == "none":
        _refuse_split_folders(config.path)
        return Layout({"train": config.path}, FolderFilter(config.path, None, skip), None)
    folders = _tree_splits(config.path) if config.source == "image_tree" else _folder_splits(config.path)
    folders = take_val_as_test(folders, config)
    if config.test_labels is not None and "test" not in folders:
        raise DataError(
            f"data.test_labels {config.test_labels} is given, but {config.path} holds no folder for it: put the images "
            "that it lists into val/ (or test/) beside train/<class>/"
        )
    labels = None if config.test_labels is None else read_labels(config.test_labels)
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


def _refuse_split_folders(path: Path) -> None:
    """Raise DataError if a folder of images without labels holds splits: all images below it would become one pool."""
    splits = [name for name in _folder_names(path) if split_of(name) is not None]
    if splits:
        named = " and ".join(f"{name}/" for name in splits)
        raise DataError(
            f"{path} holds {named}, and with data.labels none the splits are drawn from all images below data.path: "
            f"give the folder of one of them (data.path: {path / splits[0]}), or rename what is no split"
        )


def refuse_archive(config: DataConfig) -> None:
    """Raise DataError if a recipe sets options for an archive that only work for folders."""
    if config.classes is not None:
        raise DataError(f"data.classes is for folders, but {config.path} is an archive; unpack it, or leave it out")
    if config.decode == "on_the_fly":
        raise DataError(
            f"data.decode is on_the_fly, but {config.path} is an archive, which is read from front to back; unpack it, "
            "or choose decode: once"
        )


def refuse_val_list(config: DataConfig) -> NoReturn:
    """Raise DataError for a val_list beside a folder of validation images."""
    raise DataError(
        f"val_list {config.val_list} is given, but {config.path} has a folder of validation images: "
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
    """The folders of train/ and of test/ or val/, or both."""
    names = _folder_names(path) if path.is_dir() else []
    present = {split_of(name) for name in names}
    for split in ("train", "test"):
        if split not in present and not (split == "test" and "val" in present):
            raise DataError(
                f"there is no folder {path / split}; an image tree holds train/<class>/* and test/<class>/* "
                "(source image_folder splits other folders itself)"
            )
    return _folder_splits(path)


def _folder_splits(path: Path) -> dict[str, Path]:
    """train/, val/ and test/ by any of their names, or only class folders."""
    found = find_splits(str(path), _folder_names(path), lambda name: folder_content(path / name))
    return {"train": path} if found is None else {split: path / name for split, name in found.items()}


def _folder_names(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_left_out(entry.name))
    except OSError as error:
        raise DataError(f"folder {path} cannot be listed ({error.strerror}); make it readable") from error


def folder_content(path: Path) -> FolderContent:
    """The visible folders in ``path``, and whether it holds images."""
    folders = frozenset(_folder_names(path))
    return FolderContent(folders, any(is_image(entry.name) and entry.is_file() for entry in path.iterdir()))


def take_val_as_test(folders: Mapping[str, T], config: DataConfig) -> dict[str, T]:
    """The splits with val/ as the test set, where the recipe says so.

    Raises:
        DataError: the recipe says so, but there is a test/, or no val/.
    """
    flat_test = config.test_labels is not None and "test" not in folders and "val" in folders
    if not config.val_is_test and not flat_test:
        return dict(folders)
    if "test" in folders or "val" not in folders:
        has = "has a test/ folder of its own" if "test" in folders else "has no val/ folder"
        raise DataError(f"data.val_is_test is true, but {config.path} {has}; leave val_is_test out")
    return {("test" if split == "val" else split): folder for split, folder in folders.items()}
