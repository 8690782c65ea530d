"""Image sources: folders, CIFAR-10's python batches, scikit-learn's digits (archives: ``archive.py``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .cache import fingerprint
from .decode import Decoded, Encoded, decode, to_bytes
from .layout import check_folders
from .listing import FolderFilter, Listing, class_folders, file_facts, list_flat, list_images
from .lists import Labels
from .partition import hold_out
from .preprocessing import Preprocessing, cache_key

_DIGITS_SIDE = 32  # the networks for CIFAR-10 take 32 x 32; digits are 8 x 8


@dataclass(frozen=True)
class FolderSource:
    """Source: one folder of class folders per split. ``preprocessing``: None keeps (and checks) the size.

    The test folder is listed when its images are first used; its class names are checked at once.

    Args:
        selection: classes and files to use; None: all.
        labels: of the test folder's images, if it has no class folders.
    """

    folders: Mapping[str, Path]
    preprocessing: Preprocessing | None
    one_pass: bool = False
    selection: FolderFilter | None = None
    labels: Labels | None = None
    _listings: dict[str, Listing] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_folders(self.folders, self.selection, self.labels)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def listing(self, split: str) -> Listing:
        if split not in self._listings:
            self._listings[split] = self._list_split(split)
        return self._listings[split]

    def _list_split(self, split: str) -> Listing:
        root = self.folders[split]
        if split != "test" or self.labels is None:
            return list_images(root, self.selection)
        assert self.selection is not None, "a label list comes with a selection"
        return list_flat(root, self.labels, class_folders(self.folders["train"]), self.selection)

    def fingerprint(self, split: str) -> str:
        # Taken as they are, all splits must have the size of the training images: these count as facts of any split.
        facts = {name: self.listing(name).facts() for name in {split, *(() if self.preprocessing else ("train",))}}
        size = cache_key(self.preprocessing)
        return fingerprint(split, kind="folder", path=self.folders[split].resolve(), resize=size, files=facts)

    def count(self, splits: Collection[str]) -> int:
        return sum(len(self.listing(split).names) for split in splits)

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        for split in splits:
            expect = None if self.preprocessing or split == "train" else self._train_side()
            yield from decode(_encoded(self.listing(split), split), self.preprocessing, expect=expect)

    def _train_side(self) -> int:
        first = Listing(self.folders["train"], self.listing("train").names[:1])
        return int(next(decode(_encoded(first, "train"), None)).image.shape[-1])


def _encoded(listing: Listing, split: str) -> Iterator[Encoded]:
    for name, path in listing.paths():
        yield Encoded(split, name, path, str(path))


@dataclass(frozen=True)
class PooledSource:
    """Source without a test set of its own: ``test`` names are held out of the pool, the rest is ``train``.

    ``facts(names)`` describes the files for the fingerprint, ``images(names, split)`` decodes them.
    """

    names: Sequence[str]
    test: frozenset[str]
    facts: Callable[[Sequence[str]], Mapping[str, Any]]
    images: Callable[[Sequence[str], str], Iterator[Decoded]]
    splits: tuple[str, ...] = ("train", "test")
    one_pass: bool = False

    def _names_of(self, split: str) -> list[str]:
        return [name for name in self.names if (name in self.test) == (split == "test")]

    def fingerprint(self, split: str) -> str:
        names = self._names_of(split)
        return fingerprint(split, names=names, **self.facts(names))

    def count(self, splits: Collection[str]) -> int:
        return sum(len(self._names_of(split)) for split in splits)

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        for split in splits:
            yield from self.images(self._names_of(split), split)


def folder_without_test(
    listing: Listing, preprocessing: Preprocessing, *, test_fraction: float, seed: int, reserved: Collection[str]
) -> PooledSource:
    """A source of the images of ``listing``; a stratified part is the test set, without ``reserved`` names."""
    root = listing.root
    test = hold_out(listing.names, test_fraction, seed=seed, what="test", reserved=reserved)

    def facts(names: Sequence[str]) -> dict[str, Any]:
        files = listing.only(names).facts()
        return {"kind": "folder", "path": root.resolve(), "resize": preprocessing.cache_key, "files": files}

    def images(names: Sequence[str], split: str) -> Iterator[Decoded]:
        return decode(_encoded(listing.only(names), split), preprocessing)

    return PooledSource(listing.names, frozenset(test), facts, images)


def digits(
    preprocessing: Preprocessing | None, *, test_fraction: float, seed: int, reserved: Collection[str]
) -> PooledSource:
    """A source of scikit-learn's 1,797 digits (8 x 8, grey 0..16), named ``<digit>/<number>``; 32 x 32 by default."""
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    names = _numbered_names(labels, [str(digit) for digit in range(10)])
    position = {name: index for index, name in enumerate(names)}
    made = preprocessing or Preprocessing.square(_DIGITS_SIDE)

    def images(selected: Sequence[str], split: str) -> Iterator[Decoded]:
        for name in selected:
            raw = np.rint(grey[position[name]].reshape(8, 8) * (255 / 16)).astype(np.uint8)
            yield Decoded(split, name, to_bytes(Image.fromarray(raw), made))

    test = hold_out(names, test_fraction, seed=seed, what="test", reserved=reserved)
    pooled = sorted(names)
    return PooledSource(pooled, frozenset(test), lambda _: {"kind": "digits", "resize": made.cache_key}, images)


@dataclass(frozen=True)
class CifarBatches:
    """Source: CIFAR-10's python batches, read by torchvision, never downloaded; names are ``<class>/<number>``."""

    root: Path
    preprocessing: Preprocessing | None
    splits: tuple[str, ...] = ("train", "test")
    one_pass: bool = False

    @classmethod
    def at(cls, path: Path, preprocessing: Preprocessing | None) -> CifarBatches:
        """``path`` holds ``cifar-10-batches-py``, or is it."""
        from torchvision.datasets import CIFAR10

        root = path.parent if path.name == CIFAR10.base_folder else path
        if not (root / CIFAR10.base_folder).is_dir():
            raise DataError(
                f"there is no folder {CIFAR10.base_folder} in {path}; unpack cifar-10-python.tar.gz there, "
                "or use source: image_tree"
            )
        return cls(root, preprocessing)

    def fingerprint(self, split: str) -> str:
        from torchvision.datasets import CIFAR10

        parts = CIFAR10.train_list if split == "train" else CIFAR10.test_list
        files = [self.root / CIFAR10.base_folder / name for name, _ in (*parts, (CIFAR10.meta["filename"], ""))]
        facts = [file_facts(path, path.name) for path in files]
        size = cache_key(self.preprocessing)
        return fingerprint(split, kind="cifar10", path=self.root.resolve(), resize=size, files=facts)

    def count(self, splits: Collection[str]) -> None:
        """None: the number is known only once the batches are read."""

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        from torchvision.datasets import CIFAR10

        for split in splits:
            try:
                batches = CIFAR10(str(self.root), train=split == "train", download=False)
            except RuntimeError as error:
                raise DataError(
                    f"{self.root / CIFAR10.base_folder} is incomplete or damaged (its checksums differ); "
                    "unpack cifar-10-python.tar.gz again"
                ) from error
            names = _numbered_names(np.asarray(batches.targets), batches.classes)
            for index in sorted(range(len(names)), key=names.__getitem__):
                yield Decoded(split, names[index], to_bytes(Image.fromarray(batches.data[index]), self.preprocessing))


def _numbered_names(labels: NDArray[Any], classes: Sequence[str]) -> list[str]:
    return [f"{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
