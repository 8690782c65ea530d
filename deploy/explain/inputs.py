"""Parses and checks the arguments of ``slimsight explain``: explainers, class, images and names of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from slimsight.compress.amounts import read_count
from slimsight.compress.data import Preprocessing
from slimsight.compress.data.decode import Encoded, decode
from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.files.untrusted import as_text, printable
from slimsight.compress.registry import nearest

_LISTED: Final = 20  # class names listed in an error


def parse_explainers(given: str | None, own: str | None, why: str = "explainer.enabled is false") -> list[str]:
    """Names in ``"rbf, gradient"`` without duplicates; None: the run's own explainer. ``why``: it has none.

    Raises:
        ConfigError: None for a run without an explainer, or an empty name.
    """
    if given is None:
        if own is None:
            raise ConfigError(
                f"this run has no explainer of its own ({why}): name others with --with, such as --with "
                "gradient,grad_cam"
            )
        return [own]
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise ConfigError(f"--with {given!r} has an empty name: separate explainers by single commas")
    return list(dict.fromkeys(names))


def parse_class(text: str, classes: Sequence[str]) -> int:
    """Index of the class ``text``: a name, or else an index from 0.

    Raises:
        ConfigError: ``text`` is neither.
    """
    if text in classes:
        return classes.index(text)
    listed = ", ".join(classes[:_LISTED]) + (f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else "")
    allowed = f"a name ({listed}) or an index from 0 to {len(classes) - 1}"
    if text.lstrip("-").isdecimal():
        if (index := read_count(text, len(classes) - 1, least=0)) is not None:
            return index
        raise ConfigError(f"--class {printable(text)}: there is no class {printable(text)}; give {allowed}")
    raise ConfigError(f"--class {text!r} is not a class{nearest(text, list(classes))}; give {allowed}")


def read_images(paths: Sequence[Path], preprocessing: Preprocessing) -> Tensor:
    """Images (N, 3, side, side) in [0, 1], preprocessed as in a run.

    Raises:
        DataError: a file is missing or not an image.
    """
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the images in it: {path}/*")
        if not path.exists():
            raise DataError(f"there is no image {path}; check the name")
    decoded = decode((Encoded("", path.name, path, str(path)) for path in paths), preprocessing)
    return torch.from_numpy(np.stack([item.image for item in decoded])).float() / 255


def class_of_folder(path: Path, classes: Sequence[str]) -> int | None:
    """Index of the class that an image's folder is named after, or None."""
    name = as_text(path.absolute().parent.name)
    return classes.index(name) if name in classes else None


def picture_files(paths: Sequence[Path], out: Path) -> list[Path]:
    """A PNG path for each image, named after it; images of one name also after their folders, then numbered."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}-{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
    taken: set[str] = set()
    files = []
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        files.append(out / f"{free}.png")
    return files
