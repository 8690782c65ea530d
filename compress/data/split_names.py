"""Which folders are splits: the usual names of training, validation and test images, in any case."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import DataError
from .partition import first_names

SPLIT_NAMES: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""The folder names of each split, in lower case."""

_SPLIT_OF: Final = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_WORDS = {
    "train": ("training", "train", "trn"),
    "val": ("validation", "validate", "valid", "val", "development", "dev"),
    "test": ("testing", "test", "tst", "evaluation", "eval", "heldout", "holdout", "unseen"),
}
"""Words in names that resemble a split's, by what they are mostly said of; the longer ones first."""
_WORD = "|".join(word for words in _WORDS.values() for word in words)
_AFFIXES = (
    "sets?|datasets?|data|images?|imgs?|splits?|folders?|partition|subset|part|my|new|old|mini|full|public|private"
)
_SIMILAR = re.compile(f"(?:{_AFFIXES})*(?:{_WORD})+(?:{_AFFIXES})*")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NAMED = 3


def paired_splits(names: Sequence[str]) -> list[str]:
    """Names that differ in the word for a split alone: ``seg_train`` and ``seg_test``, ``trainA`` and ``testA``."""
    by_rest = defaultdict[tuple[str, ...], dict[str, str]](dict)
    for name in names:
        parts = [part.casefold() for part in _PARTS.findall(name)]
        for split, words in _WORDS.items():
            rest = tuple(part for part in parts if part not in words)
            if 0 < len(rest) < len(parts):
                by_rest[rest][name] = split
    pairs = [found for found in by_rest.values() if len(set(found.values())) > 1]
    return sorted({name for found in pairs for name in found})


@dataclass(frozen=True)
class FolderContent:
    """What lies directly in a folder: the names of its visible folders, and whether there are images."""

    folders: frozenset[str]
    images: bool


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds by convention: ``train``, ``val`` or ``test``; None for others."""
    return _SPLIT_OF.get(name.casefold())


def resembles_split(name: str) -> bool:
    """Whether a folder's name is a variation of a split's: ``training_set``, ``test2``, ``val-images``, ``holdout``."""
    return _SIMILAR.fullmatch(re.sub(r"[^a-z]+", "", name.casefold())) is not None


def find_splits(where: str, names: Sequence[str], look: Callable[[str], FolderContent]) -> dict[str, str] | None:
    """The folder of each split, by ``train``, ``val`` and ``test``; None if ``names`` are the classes themselves.

    Args:
        where: the folder or archive that holds the folders ``names``, for messages.
        look: the content of one of them.

    Raises:
        DataError: two folders of one split, or folders that may be splits or classes.
    """
    by_split = defaultdict[str, list[str]](list)
    for name in names:
        if (split := split_of(name)) is not None:
            by_split[split].append(name)
    others = sorted(name for name in names if split_of(name) is None)
    paired = paired_splits(others)
    similar = [name for name in others if resembles_split(name) or name in paired]
    if not similar and (not by_split or _is_class_named_train(by_split, others, look)):
        return None
    for split, found in by_split.items():
        if len(found) > 1:
            both = " and ".join(f"{name}/" for name in sorted(found))
            raise DataError(
                f"{where} holds {both}, which are two names of one split ({split}): leave one of them, and rename or "
                "move the other"
            )
    classes = [name for name in others if name not in similar]
    if similar or (others and "train" not in by_split):
        _refuse_unclear(where, similar or [found[0] for found in by_split.values()], classes)
    if "train" not in by_split:
        present = ", ".join(by_split[split][0] for split in SPLIT_NAMES if split in by_split)
        raise DataError(f"{where} holds {present} but no train/; add train/<class>/* beside them")
    folders = {split: by_split[split][0] for split in SPLIT_NAMES if split in by_split}
    _refuse_classes_beside(where, folders["train"], others, look)
    return folders


def _is_class_named_train(
    by_split: dict[str, list[str]], others: Collection[str], look: Callable[[str], FolderContent]
) -> bool:
    """Whether ``train`` is a class, such as one of vehicles: it holds images, and other folders lie beside it."""
    if not others or by_split.keys() != {"train"} or len(by_split["train"]) > 1:
        return False
    content = look(by_split["train"][0])
    return content.images and not content.folders


def _refuse_unclear(where: str, named: Sequence[str], classes: Sequence[str]) -> None:
    """Raise DataError: folders are ``named`` nearly like splits, or like splits where there is no train/."""
    several = len(named) > 1
    beside = f" beside {first_names(classes, _NAMED)}" if classes else ""
    looks = "they look like splits" if several else "it looks like a split"
    rename = "them other names if they are classes" if several else "it another name if it is a class"
    raise DataError(
        f"{where} holds {first_names(named, _NAMED)}{beside}: {looks} of the images; put class folders into train/, "
        f"val/ and test/ (train/ alone is enough), or give {rename}"
    )


def _refuse_classes_beside(where: str, train: str, others: Sequence[str], look: Callable[[str], FolderContent]) -> None:
    """Raise DataError for folders beside the splits that hold images of the training classes: they would be lost."""
    classes = look(train).folders
    for name in others:
        if name in classes:
            raise DataError(
                f"{where} holds {name}/ beside {train}/, and {train}/ has a class of that name: move its images into "
                f"{train}/{name}/, or the folder away"
            )
        if shared := sorted(classes & look(name).folders):
            raise DataError(
                f"{where} holds {name}/ beside {train}/, with the same class folders ({first_names(shared, _NAMED)}): "
                "call it val/ or test/ if it is one, or move it away"
            )
