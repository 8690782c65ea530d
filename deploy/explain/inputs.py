"""What ``slimsight explain`` is asked for: explainers, a class, images, and where the pictures go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from slimsight.compress.data.decode import Encoded, decode
from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.registry import nearest

_MAX_LISTED: Final = 20  # class names that an error lists


def parse_explainers(given: str | None, own: str | None) -> list[str]:
    """``"rbf, gradient"`` as names, each once; the run's own explainer if nothing is given.

    Raises:
        ConfigError: nothing is given for a run without an explainer, or a name is empty.
    """
    if given is None:
        if own is None:
            raise ConfigError(
                "this run has no explainer of its own (explainer.enabled is false): name others with --with, such as "
                "--with gradient,grad_cam"
            )
        return [own]
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise ConfigError(f"--with {given!r} names no explainer in one place: separate names by single commas")
    return list(dict.fromkeys(names))


def parse_class(text: str, classes: Sequence[str]) -> int:
    """Which class ``text`` means: a name, or else an index from 0.

    Raises:
        ConfigError: neither.
    """
    if text in classes:
        return classes.index(text)
    listed = ", ".join(classes[:_MAX_LISTED]) + (
        f" and {len(classes) - _MAX_LISTED} more" if len(classes) > _MAX_LISTED else ""
    )
    allowed = f"a name ({listed}) or an index from 0 to {len(classes) - 1}"
    if text.lstrip("-").isdecimal():
        if 0 <= int(text) < len(classes):
            return int(text)
        raise ConfigError(f"--class {text}: there is no class {text}; give {allowed}")
    raise ConfigError(f"--class {text!r} is no class{nearest(text, list(classes))}; give {allowed}")


def read_images(paths: Sequence[Path], side: int) -> Tensor:
    """(N, 3, side, side) in [0, 1], decoded as a recipe's: the centre square, resized.

    Raises:
        DataError: a file is missing or no image; it is named.
    """
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the images in it: {path}/*")
        if not path.exists():
            raise DataError(f"there is no image {path}; check the name")
    found = decode((Encoded("", path.name, path, str(path)) for path in paths), resize=side)
    return torch.from_numpy(np.stack([item.image for item in found])).float() / 255


def class_of_folder(path: Path, classes: Sequence[str]) -> int | None:
    name = path.absolute().parent.name
    return classes.index(name) if name in classes else None


def picture_files(paths: Sequence[Path], out: Path) -> list[Path]:
    """A PNG per image, named after it; where names meet, after its folder too, then numbered."""
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
