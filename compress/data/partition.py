"""Who is held out: by a list of names, or by class and seed. Names are ``<class>/<file>``."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files.untrusted import MOST_LIST, printable, read_text


def check_classes(classes: Collection[str], where: str) -> None:
    """Raises DataError unless there are two classes to tell apart."""
    if not classes:
        raise DataError(f"{where} holds no class folders; put the images of each class in a folder named after it")
    if len(classes) < 2:
        raise DataError(f"{where} holds one class only ({next(iter(classes))}); a classifier needs at least 2")


def same_classes(first: Collection[str], second: Collection[str], where_first: str, where_second: str) -> None:
    """Raises DataError naming the classes that only one of two splits has."""
    missing, extra = sorted(set(first) - set(second)), sorted(set(second) - set(first))
    if missing or extra:
        told = [f"{where_second} lacks {_some(missing)}"] if missing else []
        told += [f"{where_first} lacks {_some(extra)}"] if extra else []
        raise DataError(f"{' and '.join(told)}: every split must have the same class folders; add or remove them")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def hold_out(
    names: Sequence[str], fraction: float, *, seed: int, what: str, reserved: Collection[str] = ()
) -> set[str]:
    """A share of every class: at least one image, and at least one stays.

    A name's place in the draw is a hash of (what, seed, name): the same on every platform and version, and
    files that are added or removed hardly move the others. ``reserved`` names are never drawn, but count.

    Raises:
        DataError: a class has too few images; it is named.
    """
    reserved = frozenset(reserved)
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_class[name.split("/")[0]].append(name)
    chosen: set[str] = set()
    for label, members in by_class.items():
        free = [name for name in members if name not in reserved]
        if len(free) < 2:
            raise DataError(
                f"class '{label}' has {len(free)} image{'s' * (len(free) != 1)} to share between training "
                f"and {what}, at least 2 are needed; add images to it or remove the class"
            )
        wanted = min(max(round(len(members) * fraction), 1), len(free) - 1)
        chosen.update(sorted(free, key=lambda name: _draw(what, seed, name))[:wanted])
    return chosen


def _draw(what: str, seed: int, name: str) -> bytes:
    text = f"{what}/{seed}/{name}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=8).digest()


def read_list(path: Path) -> list[str]:
    """The names in a list file, one per line; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is empty, or names an image twice.
    """
    try:
        names = [line.strip() for line in read_text(path, MOST_LIST).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"val_list {path} cannot be read ({reason}); give a text file with one path per line"
        ) from error
    names = [name.removeprefix("./") for name in names if name]
    if not names:
        raise DataError(f"val_list {path} is empty; list at least one image, or leave val_list out")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"val_list {path} names {printable(name)} {times} times; list every image once")
    return names


def check_list(listed: Sequence[str], names: Sequence[str], *, path: Path) -> None:
    """Raises DataError unless every listed image is a training image and every class keeps some of them."""
    known = frozenset(names)
    for name in listed:
        if name not in known:
            raise DataError(
                f"val_list {path} names {printable(name)}, which is not among the training images; "
                f"paths are below train/, such as {names[0]}"
            )
    held = frozenset(listed)
    lost = {name.split("/")[0] for name in names} - {name.split("/")[0] for name in names if name not in held}
    if lost:
        raise DataError(
            f"val_list {path} holds all images of {_some(sorted(lost))}: none are left to train on; shorten the list"
        )


def of_each_class(labels: NDArray[np.int64], share: float, *, seed: int) -> NDArray[np.int64]:
    """Positions of a share of every class, in order, drawn by ``seed``; at least one image of each.

    A larger share holds a smaller one.

    Args:
        labels: (N,) of all images; share: 0..1.
    """
    keys = np.random.Generator(np.random.PCG64(seed)).random(len(labels))
    order = np.lexsort((keys, labels))
    _, counts = np.unique(labels, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.maximum(1, np.rint(counts * share).astype(np.int64))
    chosen: NDArray[np.int64] = np.sort(order[ranks < np.repeat(wanted, counts)])
    return chosen
