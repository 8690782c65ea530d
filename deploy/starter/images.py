"""Facts about a folder of images: layout, classes, sizes, and how a run would split them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimsight.compress.config import DataConfig
from slimsight.compress.data import Preprocessing, open_splits
from slimsight.compress.data.broken import (
    MOST_CHECKED,
    BrokenFile,
    broken_sentence,
    find_broken,
    write_skip_list,
)
from slimsight.compress.data.decode import DECODE_ERRORS, error_text, open_image, to_bytes
from slimsight.compress.data.layout import find_layout, folder_content
from slimsight.compress.data.listing import UNLABELLED, image_names, list_unlabelled
from slimsight.compress.data.partition import hold_out
from slimsight.compress.data.sources import FolderSource, PooledSource
from slimsight.compress.data.split_names import split_of
from slimsight.compress.data.splits import to_source
from slimsight.compress.data.unread import unread_notes
from slimsight.compress.errors import BrokenImage, DataError
from slimsight.compress.files.untrusted import printable
from slimsight.compress.progress import SILENT, Progress

from .unseen import UnseenImages

T = TypeVar("T")

SIZES = (32, 48, 64, 96, 128, 160, 192, 224)
"""Candidate image sizes, in pixels."""

_SAMPLED = 256
_CIFAR = "cifar-10-batches-py"
_FEW, _LARGE_SHARE = 500, 0.2


@dataclass(frozen=True)
class ImageFacts:
    """Facts about images; ``counts``: of all images, by class; ``splits``: images by split, as a run will make them.

    ``sizes``: width x height of the sampled images, the most frequent first; ``notes``: anything unusual.
    ``splits`` has 0 test images where the user brought train/ and val/ alone; ``skipped``: broken images, left out.
    Without labels there are no ``classes``, and ``counts`` has one entry.
    ``paths`` (or ``arrays``, where images have one size): the training images that are sampled, with labels.
    ``unseen``: validation images; None without labels.
    """

    config: DataConfig
    classes: tuple[str, ...]
    counts: dict[str, int]
    splits: dict[str, int]
    layout: str
    sizes: tuple[tuple[str, int], ...]
    short_side: int
    size: int
    why_size: str
    notes: tuple[str, ...]
    paths: tuple[tuple[Path, int], ...]
    unseen: UnseenImages | None = None
    arrays: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    skipped: tuple[BrokenFile, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether class folders say what the images show."""
        return self.config.labels == "folders"

    @property
    def imbalance(self) -> float:
        """Images of the largest class over those of the smallest."""
        return max(self.counts.values()) / max(1, min(self.counts.values()))

    def sample(self, size: int, most: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Training images (N, 3, size, size) and labels (N,), spread over the classes; ``most``: the first of them."""
        made = Preprocessing.square(size)
        if self.arrays is not None:
            arrays, labels = self.arrays[0][:most], self.arrays[1][:most]
            images = [to_bytes(Image.fromarray(array.transpose(1, 2, 0)), made) for array in arrays]
            return np.stack(images), labels
        paths = self.paths[:most]
        read = [_read_image(path, lambda image: to_bytes(image, made)) for path, _ in paths]
        return np.stack(read), np.array([label for _, label in paths])


def examine_images(
    path: Path | None,
    *,
    cache: Path,
    seed: int = 0,
    labels: Literal["folders", "none"] | None = "folders",
    skip_list: Path | None = None,
    progress: Progress = SILENT,
) -> ImageFacts:
    """The facts about the images in ``path``; None: the digits that come with scikit-learn.

    Args:
        labels: as in a recipe; None: ``none`` for a folder of images that has no two class folders.
        skip_list: where broken images are listed, to go on without them; None: they are refused.

    Raises:
        DataError: nothing there that a recipe can name; the message says which layouts are known.
        BrokenImage: images that cannot be decoded; they are named.
    """
    if labels == "none" and (path is None or not path.is_dir()):
        raise DataError(f"--no-labels takes a folder of images, not {path or 'the digits'}")
    if path is None:
        return _facts_of_source(DataConfig(source="digits", flip=False), "the embedded digits", cache, seed, progress)
    if not path.exists():
        raise DataError(f"there is no {path}; give the folder of your images: one folder per class, {_LAYOUTS}")
    if path.is_file():
        layout = "an archive with train/<class>/ and test/<class>/"
        config, skipped = _without_broken(DataConfig(source="image_tree", path=path), skip_list, progress)
        return replace(_facts_of_source(config, layout, cache, seed, progress), skipped=skipped)
    if path.name == _CIFAR or (path / _CIFAR).is_dir():
        config = DataConfig(source="cifar10_batches", path=path)
        return _facts_of_source(config, "CIFAR-10 in torchvision's layout", cache, seed, progress)
    if labels == "none" or (labels is None and _is_unlabelled(path)):
        return _facts_of_unlabelled(path, seed, skip_list, progress)
    return _facts_of_folder(path, seed, skip_list, progress)


_HELD_OUT = "held out to validate, which the weights may have learned"
_ALONE = "images alone are enough to slim a classifier with trained --weights"
_LAYOUTS = "or train/<class>/ and test/<class>/ (val/<class>/ too, if you have it)"


def _facts_of_source(config: DataConfig, layout: str, cache: Path, seed: int, progress: Progress) -> ImageFacts:
    """Facts about a source whose images have one size, read through the cache as a run does."""
    splits = open_splits(config, cache_dir=cache, seed=seed, progress=progress)
    train = splits.train
    by_split = {"train": train, "val": splits.val, **({"test": splits.test()} if splits.has_test else {})}
    totals: Counter[int] = Counter()
    for images in by_split.values():
        totals.update(np.asarray(images.labels).tolist())
    sampled = np.linspace(0, len(train) - 1, min(_SAMPLED, len(train))).round().astype(np.int64)
    side = splits.image_size
    validates = "val" in to_source(config, seed=seed, cache_dir=cache).splits
    return ImageFacts(
        config=config,
        classes=tuple(splits.classes),
        counts={name: totals[index] for index, name in enumerate(splits.classes)},
        splits={"test": 0, **{name: len(images) for name, images in by_split.items()}},
        layout=layout,
        sizes=((f"{side}x{side}", sum(totals.values())),),
        short_side=side,
        size=side,
        why_size="as they are",
        notes=(),
        paths=(),
        unseen=UnseenImages.of_arrays(
            splits.val.images,
            splits.val.labels,
            learned=not validates,
            where="that validate" if validates else _HELD_OUT,
        ),
        arrays=(np.asarray(train.images[sampled]), np.asarray(train.labels[sampled])),
    )


def _without_broken(
    config: DataConfig, skip_list: Path | None, progress: Progress
) -> tuple[DataConfig, tuple[BrokenFile, ...]]:
    """``config`` without its broken images, and these; ``skip_list`` is written to name them.

    Raises:
        BrokenImage: there are some, and no ``skip_list``.
    """
    broken = find_broken(config, progress=progress)
    if broken is None:
        progress.note(
            f"more than {MOST_CHECKED:,} images: only a sample is looked at, broken ones may be among the rest"
        )
    if not broken:
        return config, ()
    if skip_list is None:
        raise BrokenImage(broken_sentence(broken, config.path), all_named=True)
    write_skip_list(skip_list, broken)
    return config.model_copy(update={"skip": skip_list.absolute()}), broken


def _facts_of_folder(path: Path, seed: int, skip_list: Path | None, progress: Progress) -> ImageFacts:
    trial = DataConfig(source="image_folder", path=path, image_size=SIZES[0])
    try:
        trial, skipped = _without_broken(trial, skip_list, progress)
        source = to_source(trial, seed=seed)
    except BrokenImage:
        raise
    except DataError as error:
        raise DataError(f"{error} (layouts that are known: one folder per class, {_LAYOUTS}; {_ALONE})") from error
    validates, where = False, _HELD_OUT
    if isinstance(source, FolderSource):
        if "val" in source.folders:
            validates, where = True, f"in {source.folders['val'].name}/"
        named = {
            split: [(folder / name, name) for name in source.listing(split).names]
            for split, folder in source.folders.items()
        }
        has = ", ".join(f"{folder.name}/" for folder in source.folders.values())
        layout = f"class folders in {has}"
        if "test" not in source.folders:
            layout += f"; {source.folders['val'].name}/ validates, and there is no test set"
    else:
        assert isinstance(source, PooledSource)
        root = find_layout(trial).folders["train"]
        named = {
            split: [(root / name, name) for name in source.names if (name in source.test) == (split == "test")]
            for split in ("train", "test")
        }
        layout = (
            f"one folder per class in {f'{root.name}/' if root != path else path.name}; a test set is held out of them"
        )
    pool = [name for _, name in named["train"]]
    counts = Counter(name.split("/")[0] for split in named.values() for _, name in split)
    classes = tuple(sorted(counts))
    splits = {split: len(files) for split, files in named.items()}
    if "val" not in splits:
        if len(pool) < _FEW:
            trial = trial.model_copy(update={"val_fraction": _LARGE_SHARE})
        held_out = hold_out(pool, trial.val_fraction, seed=seed, what="validation")
        named["val"] = [(file, name) for file, name in named["train"] if name in held_out]
        splits |= {"train": splits["train"] - len(held_out), "val": len(held_out)}
    labelled = {
        split: [(file, classes.index(name.split("/")[0])) for file, name in named[split]] for split in ("train", "val")
    }
    sampled = _evenly_spaced(labelled["train"])
    return ImageFacts(
        config=trial,
        classes=classes,
        counts={name: counts[name] for name in classes},
        splits={name: splits.get(name, 0) for name in ("train", "val", "test")},
        layout=layout,
        paths=tuple(sampled),
        unseen=UnseenImages.of_files(labelled["val"], learned=not validates, where=where),
        skipped=skipped,
        **_sizes_of_files([file for file, _ in sampled], path),
    )


def _is_unlabelled(path: Path) -> bool:
    """Whether there are images below ``path``, but no two folders that could be classes, nor one of a split."""
    content = folder_content(path)
    if len(content.folders) > 1 or any(split_of(name) is not None for name in content.folders):
        return False
    return bool(image_names(path, ""))


def _facts_of_unlabelled(path: Path, seed: int, skip_list: Path | None, progress: Progress) -> ImageFacts:
    trial = DataConfig(source="image_folder", labels="none", path=path, image_size=SIZES[0])
    trial, skipped = _without_broken(trial, skip_list, progress)
    layout = find_layout(trial)
    listing = list_unlabelled(layout.folders["train"], layout.selection)
    test = hold_out(listing.names, trial.test_fraction, seed=seed, what="test")
    pool = [name for name in listing.names if name not in test]
    if len(pool) < _FEW:
        trial = trial.model_copy(update={"val_fraction": _LARGE_SHARE})
    validation = len(hold_out(pool, trial.val_fraction, seed=seed, what="validation"))
    sampled = _evenly_spaced([(file, 0) for _, file in listing.only(pool).paths()])
    return ImageFacts(
        config=trial,
        classes=(),
        counts={UNLABELLED: len(listing.names)},
        splits={"train": len(pool) - validation, "val": validation, "test": len(test)},
        layout="images without class folders",
        paths=tuple(sampled),
        skipped=skipped,
        **_sizes_of_files([file for file, _ in sampled], path),
    )


def _sizes_of_files(files: Sequence[Path], root: Path) -> dict[str, Any]:
    """The facts that follow from the sizes of sampled files: their sizes, the side to take and why, and notes."""
    sizes, notes = _sizes_and_notes(files)
    short = sorted(min(width, height) for width, height in sizes)[len(sizes) // 2]
    size = max((side for side in SIZES if side <= short), default=SIZES[0])
    why = f"the largest usual side that half of the images have (their short side: {short} px in the middle)"
    return {
        "sizes": tuple((f"{width}x{height}", count) for (width, height), count in Counter(sizes).most_common()),
        "short_side": short,
        "size": size,
        "why_size": why if short > SIZES[0] else f"the smallest usual side; the images have {short} px",
        "notes": (*notes, *unread_notes(root)),
    }


def _evenly_spaced(files: Sequence[tuple[Path, int]]) -> list[tuple[Path, int]]:
    """A sample that covers every class, because the files are sorted by class."""
    sampled = np.linspace(0, len(files) - 1, min(_SAMPLED, len(files))).round().astype(int)
    return [files[index] for index in sampled]


def _sizes_and_notes(files: Sequence[Path]) -> tuple[list[tuple[int, int]], list[str]]:
    sizes, modes = [], Counter[str]()
    for file in files:
        size, mode, transparent, turned = _read_image(file, _read_header)
        sizes.append(size)
        alpha = mode in ("RGBA", "LA", "PA") or transparent
        modes["with transparency (it is dropped, what lies behind shows)"] += alpha
        modes["grey (made RGB)"] += mode in ("L", "LA", "1") and not alpha
        modes["CMYK (made RGB)"] += mode == "CMYK"
        modes["turned by EXIF, which is not followed"] += turned
    of = f"of {len(files)} looked at"
    return sizes, [f"{count} {of}: {what}" for what, count in modes.items() if count]


def _read_header(image: Image.Image) -> tuple[tuple[int, int], str, bool, bool]:
    """Size, mode, whether a colour is transparent, whether EXIF turns it."""
    turned = image.getexif().get(0x0112, 1) not in (0, 1)
    return image.size, image.mode, "transparency" in image.info, turned


def _read_image(path: Path, read: Callable[[Image.Image], T]) -> T:
    try:
        with open_image(path) as image:
            return read(image)
    except DECODE_ERRORS as error:
        where = printable(str(path), 500)
        raise DataError(
            f"{where} is not an image that can be read ({error_text(error)}); replace or remove it"
        ) from error
