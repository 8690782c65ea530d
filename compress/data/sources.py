"""Sources that are folders or arrays: image trees and folders, CIFAR-10's batches, scikit-learn's digits."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .cache import fingerprint
from .decode import SUFFIXES, Decoded, Encoded, decode, is_image, to_bytes
from .partition import check_classes, hold_out, same_classes

_DIGITS_SIDE = 32  # the networks for CIFAR-10 take 32 x 32; digits are 8 x 8


@dataclass(frozen=True)
class Listing:
    """The image files below a folder of class folders: sorted names ``<class>/<file>``."""

    root: Path
    names: tuple[str, ...]

    def facts(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and time of change (ns) of every file."""
        return [_facts(self.root / name, name) for name in self.names]


def _facts(path: Path, name: str) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); replace or remove it") from error
    return name, stat.st_size, stat.st_mtime_ns


def class_folders(root: Path) -> list[str]:
    """Names of the class folders in ``root``, sorted, hidden ones ignored.

    Raises:
        DataError: ``root`` does not exist, or holds fewer than two class folders.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give a path that holds one folder of images per class")
    try:
        classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise _unlisted(error) from error
    check_classes(classes, str(root))
    return classes


def list_images(root: Path) -> Listing:
    """Every image below the class folders of ``root``.

    Raises:
        DataError: no class folders, or a class without images; it is named.
    """
    names: list[str] = []
    for label in class_folders(root):
        found = _walk(root, label)
        if not found:
            known = ", ".join(sorted(SUFFIXES))
            raise DataError(f"class folder {root / label} holds no images ({known}); add images or remove the folder")
        names += found
    return Listing(root, tuple(sorted(names, key=lambda name: name.split("/"))))


def _walk(root: Path, label: str) -> list[str]:
    def refuse(error: OSError) -> None:  # os.walk would take an unreadable folder for an empty one
        raise _unlisted(error) from error

    found = []
    for folder, _, files in os.walk(root / label, onerror=refuse):
        below = Path(folder).relative_to(root).as_posix()
        found += [f"{below}/{file}" for file in files if is_image(f"{below}/{file}")]
    return found


def _unlisted(error: OSError) -> DataError:
    return DataError(f"folder {error.filename} cannot be listed ({error.strerror}); make it readable")


@dataclass(frozen=True)
class FolderSource:
    """One folder of class folders per split. ``resize``: side in pixels, None keeps (and checks) the size.

    The test folder is listed only when its images are asked for; its class names are compared at once.
    """

    folders: Mapping[str, Path]
    resize: int | None
    one_pass: bool = False
    _listings: dict[str, Listing] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        classes = class_folders(self.folders["train"])
        for split, root in self.folders.items():
            same_classes(classes, class_folders(root), str(self.folders["train"]), str(root))
            assert split in ("train", "val", "test")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def listing(self, split: str) -> Listing:
        if split not in self._listings:
            self._listings[split] = list_images(self.folders[split])
        return self._listings[split]

    def fingerprint(self, split: str) -> str:
        # Without resize the size of the training images binds the others, so those are part of them.
        facts = {name: self.listing(name).facts() for name in {split, *(() if self.resize else ("train",))}}
        return fingerprint(split, kind="folder", path=self.folders[split].resolve(), resize=self.resize, files=facts)

    def count(self, splits: Collection[str]) -> int:
        return sum(len(self.listing(split).names) for split in splits)

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        for split in splits:
            expect = None if self.resize or split == "train" else self._train_side()
            yield from decode(_encoded(self.listing(split), split), resize=self.resize, expect=expect)

    def _train_side(self) -> int:
        first = Listing(self.folders["train"], self.listing("train").names[:1])
        return int(next(decode(_encoded(first, "train"), resize=None)).image.shape[-1])


def _encoded(listing: Listing, split: str) -> Iterator[Encoded]:
    for name in listing.names:
        path = listing.root / name
        yield Encoded(split, name, path, str(path))


@dataclass(frozen=True)
class PooledSource:
    """Images without a test set: ``test`` names are held out of the pool, the rest is ``train``.

    ``facts`` describe the named files, ``images`` decodes them.
    """

    names: Sequence[str]
    test: frozenset[str]
    facts: Callable[[Sequence[str]], Mapping[str, Any]]
    images: Callable[[Sequence[str], str], Iterator[Decoded]]
    splits: tuple[str, ...] = ("train", "test")
    one_pass: bool = False

    def _chosen(self, split: str) -> list[str]:
        return [name for name in self.names if (name in self.test) == (split == "test")]

    def fingerprint(self, split: str) -> str:
        chosen = self._chosen(split)
        return fingerprint(split, names=chosen, **self.facts(chosen))

    def count(self, splits: Collection[str]) -> int:
        return sum(len(self._chosen(split)) for split in splits)

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        for split in splits:
            yield from self.images(self._chosen(split), split)


def folder_without_test(
    root: Path, resize: int, *, test_fraction: float, seed: int, reserved: Collection[str]
) -> PooledSource:
    """Class folders in ``root``; a stratified part becomes the test set, ``reserved`` names never do."""
    listing = list_images(root)
    test = hold_out(listing.names, test_fraction, seed=seed, what="test", reserved=reserved)

    def facts(names: Sequence[str]) -> dict[str, Any]:
        files = Listing(root, tuple(names)).facts()
        return {"kind": "folder", "path": root.resolve(), "resize": resize, "files": files}

    def images(names: Sequence[str], split: str) -> Iterator[Decoded]:
        return decode(_encoded(Listing(root, tuple(names)), split), resize=resize)

    return PooledSource(listing.names, frozenset(test), facts, images)


def digits(resize: int | None, *, test_fraction: float, seed: int, reserved: Collection[str]) -> PooledSource:
    """scikit-learn's 1,797 digits (8 x 8, grey 0..16), named ``<digit>/<number>``; 32 x 32 by default."""
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    names = _names(labels, [str(digit) for digit in range(10)])
    position = {name: index for index, name in enumerate(names)}
    side = resize or _DIGITS_SIDE

    def images(chosen: Sequence[str], split: str) -> Iterator[Decoded]:
        for name in chosen:
            raw = np.rint(grey[position[name]].reshape(8, 8) * (255 / 16)).astype(np.uint8)
            yield Decoded(split, name, to_bytes(Image.fromarray(raw), side))

    test = hold_out(names, test_fraction, seed=seed, what="test", reserved=reserved)
    pooled = sorted(names)
    return PooledSource(pooled, frozenset(test), lambda _: {"kind": "digits", "resize": side}, images)


@dataclass(frozen=True)
class CifarBatches:
    """CIFAR-10's python batches through torchvision, never downloaded; names are ``<class>/<number>``."""

    root: Path
    resize: int | None
    splits: tuple[str, ...] = ("train", "test")
    one_pass: bool = False

    @classmethod
    def at(cls, path: Path, resize: int | None) -> CifarBatches:
        """``path`` holds ``cifar-10-batches-py``, or is it."""
        from torchvision.datasets import CIFAR10

        root = path.parent if path.name == CIFAR10.base_folder else path
        if not (root / CIFAR10.base_folder).is_dir():
            raise DataError(
                f"there is no folder {CIFAR10.base_folder} in {path}; unpack cifar-10-python.tar.gz there, "
                "or use source: image_tree"
            )
        return cls(root, resize)

    def fingerprint(self, split: str) -> str:
        from torchvision.datasets import CIFAR10

        parts = CIFAR10.train_list if split == "train" else CIFAR10.test_list
        files = [self.root / CIFAR10.base_folder / name for name, _ in (*parts, (CIFAR10.meta["filename"], ""))]
        facts = [_facts(path, path.name) for path in files]
        return fingerprint(split, kind="cifar10", path=self.root.resolve(), resize=self.resize, files=facts)

    def count(self, splits: Collection[str]) -> None:
        """Known only once the batches are read."""

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
            names = _names(np.asarray(batches.targets), batches.classes)
            for index in sorted(range(len(names)), key=names.__getitem__):
                yield Decoded(split, names[index], to_bytes(Image.fromarray(batches.data[index]), self.resize))


def _names(labels: NDArray[Any], classes: Sequence[str]) -> list[str]:
    return [f"{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
