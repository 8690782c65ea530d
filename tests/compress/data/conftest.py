"""Small image trees: class 'cat' is reddish and 'dog' greenish, every image has its own blue value."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"cat": (200, 0), "dog": (0, 200), "eel": (90, 90)}
Tree = Callable[..., Path]


def paint(label: str, number: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A plain image of ``size`` (width, height) in pixels."""
    return Image.new("RGB", size, (*COLOURS[label], number))


@pytest.fixture
def make_tree(tmp_path: Path) -> Tree:
    """``make_tree({"train/cat": 4, ...}, name="tree", size=(8, 8))`` writes that many PNGs per folder."""

    def make(counts: Mapping[str, int], name: str = "tree", size: tuple[int, int] = (8, 8)) -> Path:
        root = tmp_path / name
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for number in range(count):
                paint(Path(folder).name, number, size).save(root / folder / f"{number:04d}.png")
        return root

    return make


@pytest.fixture
def tree(make_tree: Tree) -> Path:
    """10 training and 3 test images of each of two classes."""
    return make_tree({"train/cat": 10, "train/dog": 10, "test/cat": 3, "test/dog": 3})


def pack(root: Path, path: Path, mode: str = "w:xz", inside: str = ".", backwards: bool = False) -> Path:
    """``root`` as an archive at ``path``, its members sorted or in reverse."""
    files = sorted(root.rglob("*"), reverse=backwards)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in files:
            tar.add(file, f"{inside}/{file.relative_to(root)}", recursive=False)
    return path


@pytest.fixture
def pack_tree() -> Callable[..., Path]:
    return pack


@pytest.fixture
def random_images() -> np.ndarray:
    """Bytes (20, 3, 8, 8), seed 0."""
    return np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, as JPEG keeps them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train/ with 20 JPEGs of each of three classes, val/ with 4; sizes differ."""
    root, number = tmp_path / "photos", 0
    for split, count in (("train", 20), ("val", 4)):
        for label in ("n01", "n02", "n03"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                path = root / split / label / f"{label}_{index:02d}.JPEG"
                photo(30 + number % 17, 26 + number % 11, number).save(path, quality=90)
                number += 1
    return root
