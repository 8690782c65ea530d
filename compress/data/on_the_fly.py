"""Splits whose images stay files (``data.decode: on_the_fly``): an index of them is all that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import DataError
from ..progress import Progress
from .file_images import FileImages
from .images import ImageSet, Rows
from .index import Index, open_index
from .layout import Layout, check_folders, find_layout, refuse_archive, refuse_val_list
from .listing import class_folders
from .partition import check_list, hold_out, read_list


def open_on_the_fly(
    config: DataConfig, *, cache_dir: Path, seed: int, progress: Progress
) -> tuple[ImageSet, ImageSet, Callable[[], ImageSet]]:
    """Training and validation images, and what opens the test images: the same files as with ``decode: once``.

    Raises:
        DataError: images that are missing, or that cannot be split like this.
        RunError: the disk is full or ``cache_dir`` is not writable.
    """
    path = config.path
    assert path is not None, "DataConfig requires a path"
    if not path.exists():
        raise DataError(f"data path {path} does not exist; give the folder that holds the images")
    if not path.is_dir():
        refuse_archive(config)
    layout = find_layout(config)
    classes = check_folders(layout.folders, layout.chosen, layout.labels)
    of = _Opener(config, layout, classes, cache_dir, progress)
    listed = None if config.val_list is None else read_list(config.val_list)
    train = of.index("train")
    test = None if "test" in layout.folders else _held_for_test(train, config, seed, listed)
    pool = np.ones(len(train), dtype=np.bool_) if test is None else ~test

    def open_test() -> ImageSet:
        return of.images(of.index("test")) if test is None else of.images(train, test)

    if "val" in layout.folders and test is None:
        if listed is not None:
            refuse_val_list(config)
        return of.images(train, pool), of.images(of.index("val")), open_test
    val = _held_for_validation(train, pool, config, seed, listed)
    return of.images(train, pool & ~val), of.images(train, val), open_test


class _Opener:
    """Opens the index of each split, and images of an index."""

    def __init__(
        self, config: DataConfig, layout: Layout, classes: Sequence[str], cache_dir: Path, progress: Progress
    ) -> None:
        self.config, self.layout, self.classes = config, layout, classes
        self.cache_dir, self.progress = cache_dir, progress

    def index(self, split: str) -> Index:
        flat = self.layout.labels if split == "test" else None
        return open_index(
            self.layout.folders[split],
            self.cache_dir,
            chosen=self.layout.chosen,
            labels=flat,
            classes=class_folders(self.layout.folders["train"]) if flat else (),
            what=split,
            progress=self.progress,
        )

    def images(self, index: Index, mask: NDArray[np.bool_] | None = None) -> ImageSet:
        side = self.config.image_size
        assert side is not None, "DataConfig requires image_size"
        order = np.arange(len(index)) if mask is None else np.flatnonzero(mask)
        files = FileImages(index, side, self.config.resize or side)
        return ImageSet(Rows(files, order), index.labels[order], index.classes)


def _held_for_test(train: Index, config: DataConfig, seed: int, listed: Sequence[str] | None) -> NDArray[np.bool_]:
    facts = {"what": "test", "fraction": config.test_fraction, "seed": seed, "reserved": sorted(listed or ())}
    return train.held(
        lambda: hold_out(
            train.names.every(), config.test_fraction, seed=seed, what="test", reserved=frozenset(listed or ())
        ),
        **facts,
    )


def _held_for_validation(
    train: Index, pool: NDArray[np.bool_], config: DataConfig, seed: int, listed: Sequence[str] | None
) -> NDArray[np.bool_]:
    def names() -> list[str]:
        return [name for name, free in zip(train.names.every(), pool, strict=True) if free]

    if listed is None:
        facts: dict[str, Any] = {"what": "validation", "fraction": config.val_fraction, "seed": seed}
        facts["pool"] = int(pool.sum()), config.test_fraction
        return train.held(lambda: hold_out(names(), config.val_fraction, seed=seed, what="validation"), **facts)

    def checked() -> set[str]:
        assert config.val_list is not None
        check_list(listed, names(), path=config.val_list)
        return set(listed)

    return train.held(checked, what="listed", names=sorted(listed), pool=(int(pool.sum()), config.test_fraction, seed))
