"""Attributes of modules that say how many channels a part of a split has: they shrink with the part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CutPlace:
    """Attribute ``attribute`` of ``module`` (its element ``index``, of a list) is the number of channels ``labels``."""

    module: str
    attribute: str
    index: int | None
    labels: Tensor


@dataclass(frozen=True)
class CutWidth:
    """A number in an attribute of a module: ``fixed`` channels that stay, and those of ``members`` that are kept.

    ``members``: by the name of a group, the channels of it that are counted, one by one.
    """

    module: str
    attribute: str
    index: int | None
    fixed: int
    members: tuple[tuple[str, tuple[int, ...]], ...]

    def count(self, kept: Mapping[str, Sequence[int]]) -> int:
        """The number where only ``kept`` channels of groups are left; other groups are whole."""
        widths = [(channels, set(kept[name]) if name in kept else None) for name, channels in self.members]
        return self.fixed + sum(
            len(channels) if of is None else sum(channel in of for channel in channels) for channels, of in widths
        )


@dataclass(frozen=True)
class Places:
    """Attributes that say the widths of parts; ``tied``: parts of one width share an attribute."""

    found: tuple[CutPlace, ...]
    tied: bool


def find_places(owner: nn.Module | None, name: str, parts: Sequence[Tensor]) -> Places | None:
    """The attributes of ``owner``, which cuts channels into ``parts`` (labels), that say their widths; None: none."""
    widths = [len(part) for part in parts]
    values = {} if owner is None else dict(vars(owner))
    for attribute, value in values.items():
        if isinstance(value, list | tuple) and list(value) == widths:
            return Places(tuple(CutPlace(name, attribute, k, part) for k, part in enumerate(parts)), False)
    numbers = {attribute: value for attribute, value in values.items() if type(value) is int}
    found: list[CutPlace] = []
    missing = 0
    for width, part in {len(part): part for part in reversed(parts)}.items():
        named = [CutPlace(name, attribute, None, part) for attribute, value in numbers.items() if value == width]
        missing += not named
        found += named
    if not missing or (len(parts) == 2 and widths[0] != widths[1] and missing == 1):
        return Places(tuple(found), True)
    if len(set(widths)) == 1:
        whole = [attribute for attribute, value in numbers.items() if value == sum(widths)]
        return Places(tuple(_whole(name, attribute, parts) for attribute in whole), True) if whole else None
    return None


def _whole(name: str, attribute: str, parts: Sequence[Tensor]) -> CutPlace:
    return CutPlace(name, attribute, None, torch.cat(list(parts)))


def set_width_(modules: Mapping[str, nn.Module], width: CutWidth, kept: Mapping[str, Sequence[int]]) -> None:
    """Put the number of channels that are left in its attribute."""
    owner, count = modules[width.module], width.count(kept)
    if width.index is None:
        setattr(owner, width.attribute, count)
        return
    values = list(getattr(owner, width.attribute))
    values[width.index] = count
    setattr(owner, width.attribute, type(getattr(owner, width.attribute))(values))
