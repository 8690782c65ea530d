"""Training, validation and test images of a recipe; only ``Splits.test()`` opens the test images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..errors import DataError
from ..progress import SILENT, Progress
from .archive import ArchiveSource
from .cache import Pool, Source, load
from .decode import is_image
from .images import ImageSet
from .partition import check_list, hold_out, read_list
from .sources import CifarBatches, FolderSource, digits, folder_without_test


class Splits:
    """``train`` and ``val`` images, their ``classes`` and side; ``test()`` opens the test images."""

    def __init__(self, train: ImageSet, val: ImageSet, open_test: Callable[[], ImageSet]) -> None:
        self.train = train
        self.val = val
        self._open_test = open_test
        self._test: ImageSet | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return int(self.train.images.shape[-1])

    def test(self) -> ImageSet:
        """The test images, decoded (or opened in the cache) on the first call."""
        if self._test is None:
            self._test = self._open_test()
        return self._test


def open_splits(config: DataConfig, *, cache_dir: Path, seed: int, progress: Progress = SILENT) -> Splits:
    """The images of ``config``, decoded once into ``cache_dir`` and read from there afterwards.

    Validation is ``val_list``, or a val/ folder beside a test/ folder, or ``val_fraction`` of every class,
    drawn by ``seed``.

    Raises:
        DataError: images that are missing, corrupt, or cannot be split like this.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    listed = None if config.val_list is None else read_list(config.val_list)
    source = to_source(config, seed=seed, reserved=listed or ())
    pool = load(source, "train", cache_dir, progress)

    def open_test() -> ImageSet:
        return load(source, "test", cache_dir, progress).images

    if "val" in source.splits:
        if listed is not None:
            raise DataError(
                f"val_list {config.val_list} is given, but {config.path} has a val/ folder beside test/: "
                "leave val_list out, or move the folder away"
            )
        return Splits(pool.images, load(source, "val", cache_dir, progress).images, open_test)
    if listed is None:
        held = hold_out(pool.names, config.val_fraction, seed=seed, what="validation")
    else:
        assert config.val_list is not None
        check_list(listed, pool.names, path=config.val_list)
        held = set(listed)
    train, val = _divide(pool, held)
    return Splits(train, val, open_test)


def _divide(pool: Pool, held: set[str]) -> tuple[ImageSet, ImageSet]:
    """The images whose names are not held, and those whose are."""
    mask = np.fromiter((name in held for name in pool.names), dtype=bool, count=len(pool.names))
    return pool.images.subset(np.flatnonzero(~mask)), pool.images.subset(np.flatnonzero(mask))


def to_source(config: DataConfig, *, seed: int, reserved: Sequence[str] = ()) -> Source:
    """Where the images of ``config`` come from; ``reserved`` names stay out of a test set drawn by ``seed``.

    Raises:
        DataError: the path is missing, or is not what the source takes.
    """
    size = config.image_size
    if config.source == "digits":
        return digits(size, test_fraction=config.test_fraction, seed=seed, reserved=reserved)
    path = config.path
    assert path is not None, "DataConfig requires a path"
    if not path.exists():
        raise DataError(f"data path {path} does not exist; give the folder (or archive) that holds the images")
    if config.source == "image_tree" and not path.is_dir():
        return ArchiveSource(path, size)
    if not path.is_dir():
        hint = "; source image_tree reads archives" if config.source == "image_folder" else ""
        raise DataError(f"data path {path} is a file, but source {config.source} takes a folder{hint}")
    if config.source == "image_tree":
        return _tree(path, size)
    if config.source == "cifar10_batches":
        return CifarBatches.at(path, size)
    assert size is not None, "DataConfig requires image_size for image_folder"
    return _folder(path, size, test_fraction=config.test_fraction, seed=seed, reserved=reserved)


def _tree(path: Path, size: int | None) -> Source:
    folders = {split: path / split for split in ("train", "test")}
    for folder in folders.values():
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}; an image tree holds train/<class>/* and test/<class>/* "
                "(source image_folder splits other folders itself)"
            )
    return FolderSource(folders, size)


def _folder(path: Path, size: int, *, test_fraction: float, seed: int, reserved: Sequence[str]) -> Source:
    """train/, val/ and test/, or class folders alone. As for ImageNet, val/ without test/ is the test set."""
    present = {split: path / split for split in ("train", "val", "test") if (path / split).is_dir()}
    if present and "train" not in present and not _others(path, present):
        raise DataError(f"{path} holds {', '.join(present)} but no train/; add train/<class>/* beside them")
    if "train" not in present or _is_class(path, present):
        return folder_without_test(path, size, test_fraction=test_fraction, seed=seed, reserved=reserved)
    if "test" in present:
        return FolderSource(present, size)
    if "val" in present:
        return FolderSource({"train": present["train"], "test": present["val"]}, size)
    return folder_without_test(present["train"], size, test_fraction=test_fraction, seed=seed, reserved=reserved)


def _others(path: Path, splits: Collection[str]) -> bool:
    """Whether there are folders beside those of the splits."""
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return any(name not in splits and not name.startswith(".") for name in names)


def _is_class(path: Path, splits: Collection[str]) -> bool:
    """Whether path/train is a class of that name: it holds images itself and has other folders beside it."""
    return _others(path, splits) and any(
        entry.is_file() and is_image(entry.name) for entry in (path / "train").iterdir()
    )
