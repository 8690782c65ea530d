"""Reproducible stratified draws (hold-out sets, subsets) and checks of class names. Names are ``<class>/<file>``."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files.untrusted import as_text, printable


def check_classes(classes: Collection[str], where: str) -> None:
    """Raise DataError unless there are at least two classes."""
    if not classes:
        raise DataError(f"{where} holds no class folders; put the images of each class in a folder named after it")
    if len(classes) < 2:
        raise DataError(
            f"{where} holds one class only ({printable(next(iter(classes)))}); a classifier needs at least 2"
        )
    if len(set(map(as_text, classes))) < len(classes):
        alike = [name for name in sorted(classes) if as_text(name) != name]
        raise DataError(
            f"{where} holds class folders that are shown alike, one of them not UTF-8 ({first_names(alike, 3)}): "
            "rename it"
        )


def check_same_classes(first: Collection[str], second: Collection[str], where_first: str, where_second: str) -> None:
    """Raise DataError if two splits have different classes; the message names them."""
    missing, extra = sorted(set(first) - set(second)), sorted(set(second) - set(first))
    if missing or extra:
        differences = [f"{where_second} lacks {first_names(missing, 5)}"] if missing else []
        differences += [f"{where_first} lacks {first_names(extra, 5)}"] if extra else []
        raise DataError(
            f"{' and '.join(differences)}: every split must have the same class folders; add or remove them"
        )


def first_names(names: Sequence[str], count: int) -> str:
    """``a, b and 3 more``: the first ``count`` names, for messages."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(printable, names[:count])) + more


def hold_out(
    names: Sequence[str], fraction: float, *, seed: int, what: str, reserved: Collection[str] = ()
) -> set[str]:
    """Draw a hold-out set: a share of every class, at least one image; at least one stays.

    Names are ordered by a hash of (what, seed, name): the same on all platforms and versions, and adding or removing
    files hardly changes the draw of others. ``reserved`` names are never drawn, but count in a class's size.

    Raises:
        DataError: a class has too few images; it is named.
    """
    reserved = frozenset(reserved)
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_class[name.split("/")[0]].append(name)
    held_out: set[str] = set()
    for label, members in by_class.items():
        free = [name for name in members if name not in reserved]
        if len(free) < 2:
            raise DataError(
                f"class '{label}' has {len(free)} image{'s' * (len(free) != 1)} to share between training "
                f"and {what}, at least 2 are needed; add images to it or remove the class"
            )
        count = min(max(round(len(members) * fraction), 1), len(free) - 1)
        held_out.update(sorted(free, key=lambda name: _hash_of_name(what, seed, name))[:count])
    return held_out


def _hash_of_name(what: str, seed: int, name: str) -> bytes:
    text = f"{what}/{seed}/{name}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=8).digest()


def stratified_rows(labels: NDArray[np.int64], share: float, *, seed: int) -> NDArray[np.int64]:
    """Sorted positions of a random share of every class (at least one image); larger shares include smaller ones.

    Args:
        labels: (N,) of all images; share: 0..1.
    """
    keys = np.random.Generator(np.random.PCG64(seed)).random(len(labels))
    order = np.lexsort((keys, labels))
    _, counts = np.unique(labels, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.maximum(1, np.rint(counts * share).astype(np.int64))
    rows: NDArray[np.int64] = np.sort(order[ranks < np.repeat(drawn, counts)])
    return rows
