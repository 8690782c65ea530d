"""Images that stay files: as many as a disk holds, indexed like an array, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import DataError
from ..progress import Progress
from .decode import WORKERS
from .images import ImageSet, Rows
from .index import Index, open_index
from .layout import Layout, check_folders, find_layout, refuse_archive, refuse_val_list
from .listing import class_folders
from .partition import check_list, hold_out, read_list
from .scaled import Pixels, Window, centre, read_scaled

_MOST_BYTES = 4 << 30
"""What may be asked for at once: whoever wants more has taken a large set of images for a small one."""


class FileImages:
    """The images of an index as ``(N, 3, side, side)`` uint8: the centre square after scaling the short side.

    Args:
        side: pixels; short: what the short side is scaled to before the centre is taken, ``side`` or more.
    """

    def __init__(self, index: Index, side: int, short: int) -> None:
        assert short >= side
        self.names, self.root = index.names, str(index.root)
        self.digest = index.digest
        self.side, self.short = side, short

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.names), 3, self.side, self.side

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """Of the file of one image."""
        return f"{self.root}/{self.names[row]}"

    def plain(self, row: int) -> Pixels:
        """One image ``(side, side, 3)``, not augmented."""
        return read_scaled(self.path(row), self.side, self._centre)

    def __getitem__(self, rows: NDArray[np.int64] | np.int64) -> NDArray[np.uint8]:
        """Images ``(n, 3, side, side)`` at an array of positions, or one ``(3, side, side)``; decoded in threads.

        Raises:
            DataError: an image that cannot be read; or more of them than memory should hold.
        """
        wanted = np.atleast_1d(np.asarray(rows))
        size = len(wanted) * 3 * self.side**2
        if size > _MOST_BYTES:
            raise DataError(
                f"{len(wanted):,} images of {self.side} x {self.side} pixels would take {size / 1e9:.0f} GB of memory "
                "at once; ask for fewer of them (data.subset takes a share of the training images)"
            )
        images = np.empty((len(wanted), self.side, self.side, 3), dtype=np.uint8)

        def read(item: tuple[int, Any]) -> None:
            images[item[0]] = self.plain(int(item[1]))

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="decode") as pool:
            for _ in pool.map(read, enumerate(wanted)):
                pass
        found = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return found if np.ndim(rows) else found[0]

    def _centre(self, width: int, height: int) -> Window:
        return centre(width, height, self.side, self.short)


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
