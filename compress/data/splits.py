"""Training, validation and test images of a recipe; test images are opened on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import DataError
from ..progress import SILENT, Progress
from .archive import ArchiveSource
from .broken import naming_all_broken
from .cache import CachedImages, Source, load_cached
from .content import content_key
from .images import ImageSet
from .layout import find_layout, refuse_archive, refuse_val_list
from .listing import list_images, list_unlabelled
from .lists import check_val_list, read_val_list
from .on_the_fly import open_on_the_fly
from .partition import hold_out, stratified_rows
from .preprocessing import Preprocessing
from .sources import CifarBatches, FolderSource, digits, folder_without_test

OpenedSplits = tuple[ImageSet, ImageSet, Callable[[], ImageSet] | None]
"""Training and validation images, and a function that opens the test images; None: there are none."""


class Splits:
    """The image sets of a recipe: ``train``, ``val`` and, if it ``has_test``, ``test()``, opened on first use."""

    def __init__(self, train: ImageSet, val: ImageSet, open_test: Callable[[], ImageSet] | None) -> None:
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

    @property
    def has_test(self) -> bool:
        """Whether there are test images: not if the user brought train/ and val/ alone."""
        return self._open_test is not None

    def relabelled(self, classes: tuple[str, ...], train: NDArray[np.int64], val: NDArray[np.int64]) -> Splits:
        """The same images with other labels; those of test images stay."""
        return Splits(self.train.relabelled(train, classes), self.val.relabelled(val, classes), self._open_test)

    def decode_test(self) -> None:
        """Decode the test images, if there are any, into the cache and give none of them away: broken ones are found.

        Raises:
            DataError: an image is broken.
        """
        if self._open_test is not None:
            self._open_test()

    def test_key(self) -> str | None:
        """Digest of the test images, their labels and their content, without giving them away; None: there are none.

        Raises:
            DataError: an image is broken.
        """
        return None if self._open_test is None else content_key(self._open_test())

    def test(self) -> ImageSet:
        """The test images, decoded or opened from the cache on the first call.

        Raises:
            DataError: there are none (see ``has_test``).
        """
        if self._open_test is None:
            raise DataError(
                "there are no test images: the folder has train/ and val/ alone; add test/<class>/* beside them, or "
                "set data.val_is_test to use val/ for testing alone"
            )
        if self._test is None:
            self._test = self._open_test()
        return self._test


def open_splits(config: DataConfig, *, cache_dir: Path, seed: int, progress: Progress = SILENT) -> Splits:
    """The splits of ``config``, decoded once into ``cache_dir`` and read from there afterwards.

    Validation is ``val_list``, or a folder named val/, valid/, validation/ or dev/, or ``val_fraction`` of every
    class, drawn by ``seed``. Test images are those of test/ or testing/; without one, a share is held out of the
    training images, unless the user brought validation images: then nothing is cut from the training images, and there
    is no test set. ``data.subset`` is drawn from the remaining training images, so that it does not change validation
    and test images. With ``decode: on_the_fly`` the cache holds only an index of the files.

    Raises:
        DataError: images are missing, corrupt, or cannot be split as the recipe asks.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    open_all = _open_cached if config.decode == "once" else open_on_the_fly
    with naming_all_broken(config, progress):
        train, val, load_test = open_all(config, cache_dir=cache_dir, seed=seed, progress=progress)
    if config.subset is not None:
        train = train.subset(stratified_rows(train.labels, config.subset, seed=seed))
    if load_test is None:
        return Splits(train, val, None)

    def open_test() -> ImageSet:
        with naming_all_broken(config, progress):
            return load_test()

    return Splits(train, val, open_test)


def to_source(config: DataConfig, *, seed: int, reserved: Sequence[str] = (), cache_dir: Path | None = None) -> Source:
    """The image source of ``config``; ``reserved`` names stay out of a test set drawn by ``seed``.

    Args:
        cache_dir: where the layout of an archive is remembered.

    Raises:
        DataError: the path is missing, or of the wrong kind for the source.
    """
    preprocessing = Preprocessing.of(config)
    if config.source == "digits":
        return digits(preprocessing, test_fraction=config.test_fraction, seed=seed, reserved=reserved)
    path = config.path
    assert path is not None, "DataConfig requires a path"
    if not path.exists():
        raise DataError(f"data path {path} does not exist; give the folder (or archive) that holds the images")
    if config.source == "image_tree" and not path.is_dir():
        refuse_archive(config)
        return ArchiveSource.of(config, cache_dir)
    if not path.is_dir():
        hint = "; source image_tree reads archives" if config.source == "image_folder" else ""
        raise DataError(f"data path {path} is a file, but source {config.source} takes a folder{hint}")
    if config.source == "cifar10_batches":
        return CifarBatches.at(path, preprocessing)
    layout = find_layout(config)
    if "test" in layout.folders or "val" in layout.folders:
        return FolderSource(layout.folders, preprocessing, selection=layout.selection, labels=layout.labels)
    assert preprocessing is not None, "DataConfig requires image_size for image_folder"
    list_all = list_images if config.labels == "folders" else list_unlabelled
    listing = list_all(layout.folders["train"], layout.selection)
    return folder_without_test(listing, preprocessing, test_fraction=config.test_fraction, seed=seed, reserved=reserved)


def _open_cached(config: DataConfig, *, cache_dir: Path, seed: int, progress: Progress) -> OpenedSplits:
    listed = None if config.val_list is None else read_val_list(config.val_list)
    source = to_source(config, seed=seed, reserved=listed or (), cache_dir=cache_dir)
    pool = load_cached(source, "train", cache_dir, progress)

    def load_test() -> ImageSet:
        return load_cached(source, "test", cache_dir, progress).images

    open_test = load_test if "test" in source.splits else None
    if "val" in source.splits:
        if listed is not None:
            refuse_val_list(config)
        return pool.images, load_cached(source, "val", cache_dir, progress).images, open_test
    if listed is None:
        validation = hold_out(pool.names, config.val_fraction, seed=seed, what="validation")
    else:
        assert config.val_list is not None
        check_val_list(listed, pool.names, path=config.val_list)
        validation = set(listed)
    return *_split_off(pool, validation), open_test


def _split_off(pool: CachedImages, validation: set[str]) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of ``pool``."""
    mask = np.fromiter((name in validation for name in pool.names), dtype=bool, count=len(pool.names))
    return pool.images.subset(np.flatnonzero(~mask)), pool.images.subset(np.flatnonzero(mask))
