"""Images decoded on access (``data.decode: on_the_fly``): file-backed image sets and their splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import DataError
from ..progress import Progress
from .content import digests_of_files
from .decode import DECODE_THREADS
from .images import ImageSet, Rows
from .index import FileIndex, open_index
from .layout import Layout, check_folders, find_layout, refuse_archive, refuse_val_list
from .listing import UNLABELLED, class_folders
from .lists import check_val_list, read_val_list
from .partition import hold_out
from .preprocessing import Preprocessing
from .scaled import Pixels, read_scaled

_MAX_BYTES = 4 << 30
"""Limit of one access: a request for more mistakes a large set of images for a small one."""


class FileImages:
    """Images of an index as an array ``(N, 3, side, side)`` uint8: decoded and preprocessed on access."""

    def __init__(self, index: FileIndex, preprocessing: Preprocessing) -> None:
        self.names, self.root = index.names, str(index.root)
        self.preprocessing = preprocessing

    @property
    def side(self) -> int:
        """Of the squares, pixels."""
        return self.preprocessing.side

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.names), 3, self.side, self.side

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """The path of one image file."""
        return f"{self.root}/{self.names[row]}"

    def plain(self, row: int) -> Pixels:
        """One image ``(side, side, 3)``, not augmented."""
        made = self.preprocessing
        return read_scaled(self.path(row), made.side, made.window, made.interpolation)

    def __getitem__(self, rows: NDArray[np.int64] | np.int64) -> NDArray[np.uint8]:
        """Images ``(n, 3, side, side)`` at an array of positions, or one ``(3, side, side)``; decoded in threads.

        Raises:
            DataError: an image cannot be read, or the images would take more than 4 GiB.
        """
        selected = np.atleast_1d(np.asarray(rows))
        size = len(selected) * 3 * self.side**2
        if size > _MAX_BYTES:
            raise DataError(
                f"{len(selected):,} images of {self.side} x {self.side} pixels would take {size / 1e9:.0f} GB of "
                "memory at once; use fewer of them (data.subset takes a share of the training images)"
            )
        images = np.empty((len(selected), self.side, self.side, 3), dtype=np.uint8)

        def read(item: tuple[int, Any]) -> None:
            images[item[0]] = self.plain(int(item[1]))

        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
            for _ in pool.map(read, enumerate(selected)):
                pass
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return channels_first if np.ndim(rows) else channels_first[0]


def open_on_the_fly(
    config: DataConfig, *, cache_dir: Path, seed: int, progress: Progress
) -> tuple[ImageSet, ImageSet, Callable[[], ImageSet] | None]:
    """Training and validation images, and a function that opens the test images; split as with ``decode: once``.

    The function is None if there are no test images.

    Raises:
        DataError: images are missing or cannot be split as the recipe asks.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    path = config.path
    assert path is not None, "DataConfig requires a path"
    if not path.exists():
        raise DataError(f"data path {path} does not exist; give the folder that holds the images")
    if not path.is_dir():
        refuse_archive(config)
    layout = find_layout(config)
    classes = [UNLABELLED]
    if config.labels == "folders":
        classes = check_folders(layout.folders, layout.selection, layout.labels)
    opener = _Opener(config, layout, classes, cache_dir, progress)
    listed = None if config.val_list is None else read_val_list(config.val_list)
    train = opener.index("train")
    if "val" in layout.folders:
        if listed is not None:
            refuse_val_list(config)
        load_test = (lambda: opener.images(opener.index("test"))) if "test" in layout.folders else None
        return opener.images(train), opener.images(opener.index("val")), load_test
    test = None if "test" in layout.folders else _test_mask(train, config, seed, listed)
    pool = np.ones(len(train), dtype=np.bool_) if test is None else ~test

    def open_test() -> ImageSet:
        return opener.images(opener.index("test")) if test is None else opener.images(train, test)

    val = _validation_mask(train, pool, config, seed, listed)
    return opener.images(train, pool & ~val), opener.images(train, val), open_test


class _Opener:
    """Opens indexes of splits and image sets of an index, with one configuration."""

    def __init__(
        self, config: DataConfig, layout: Layout, classes: Sequence[str], cache_dir: Path, progress: Progress
    ) -> None:
        self.config, self.layout, self.classes = config, layout, classes
        self.cache_dir, self.progress = cache_dir, progress

    def index(self, split: str) -> FileIndex:
        flat = self.layout.labels if split == "test" else None
        return open_index(
            self.layout.folders[split],
            self.cache_dir,
            selection=self.layout.selection,
            labels=flat,
            classes=class_folders(self.layout.folders["train"]) if flat else (),
            unlabelled=self.config.labels == "none",
            what=split,
            progress=self.progress,
        )

    def images(self, index: FileIndex, mask: NDArray[np.bool_] | None = None) -> ImageSet:
        preprocessing = Preprocessing.of(self.config)
        assert preprocessing is not None, "DataConfig requires image_size"
        order = np.arange(len(index)) if mask is None else np.flatnonzero(mask)
        files = FileImages(index, preprocessing)
        digests = partial(digests_of_files, index, self.cache_dir, self.progress)
        return ImageSet(Rows(files, order), index.labels[order], index.classes, digests)


def _test_mask(train: FileIndex, config: DataConfig, seed: int, listed: Sequence[str] | None) -> NDArray[np.bool_]:
    facts = {"what": "test", "fraction": config.test_fraction, "seed": seed, "reserved": sorted(listed or ())}
    return train.holdout_mask(
        lambda: hold_out(
            train.holdout_names(), config.test_fraction, seed=seed, what="test", reserved=frozenset(listed or ())
        ),
        **facts,
    )


def _validation_mask(
    train: FileIndex, pool: NDArray[np.bool_], config: DataConfig, seed: int, listed: Sequence[str] | None
) -> NDArray[np.bool_]:
    def names() -> list[str]:
        return [name for name, free in zip(train.holdout_names(), pool, strict=True) if free]

    if listed is None:
        facts: dict[str, Any] = {"what": "validation", "fraction": config.val_fraction, "seed": seed}
        facts["pool"] = int(pool.sum()), config.test_fraction
        return train.holdout_mask(lambda: hold_out(names(), config.val_fraction, seed=seed, what="validation"), **facts)

    def checked() -> set[str]:
        assert config.val_list is not None
        check_val_list(listed, names(), path=config.val_list)
        return set(listed)

    return train.holdout_mask(
        checked, what="listed", names=sorted(listed), pool=(int(pool.sum()), config.test_fraction, seed)
    )
