"""Numbers for channels: which are tied to each other, and which must stay, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def compact(*labels: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape, cut to one element along the dimensions that all of them only repeat (stride 0)."""
    for dim in range(labels[0].dim()):
        if all(each.stride(dim) == 0 or each.shape[dim] == 1 for each in labels):
            labels = tuple(each.narrow(dim, 0, 1) for each in labels)
    return labels


def varies(labels: Tensor, dim: int) -> bool:
    """Whether the numbers differ along ``dim``."""
    if labels.shape[dim] < 2 or labels.stride(dim) == 0:
        return False
    (small,) = compact(labels)
    return bool((small != small.narrow(dim, 0, 1)).any())


class ChannelNumbers:
    """Gives channels their numbers (int32, from 1) and remembers which go together and which must stay."""

    def __init__(self) -> None:
        self._count = 1
        self._pairs: list[NDArray[np.int64]] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, channels: int) -> Tensor:
        """(channels,) new numbers."""
        numbers = torch.arange(self._count, self._count + channels, dtype=torch.int32)
        self._count += channels
        return numbers

    def fixed(self, shape: Sequence[int], reason: str) -> Tensor:
        """Numbers of ``shape`` for what is no channel that may go: one number, frozen for ``reason``."""
        number = self.fresh(1)
        self._reasons[int(number)] = reason
        return number.expand(tuple(shape)) if shape else number.reshape(())

    def tie(self, ours: Tensor, theirs: Tensor) -> None:
        """Channels at the same places (shapes broadcast) can only go together."""
        shape = (ours + theirs).shape
        ours, theirs = compact(ours.expand(shape), theirs.expand(shape))
        differ = ours != theirs
        if bool(differ.any()):
            pairs = torch.stack([ours[differ], theirs[differ]]).long().numpy()
            self._pairs.append(np.unique(pairs, axis=1))

    def tie_along(self, labels: Tensor, dim: int) -> None:
        """Channels that differ along ``dim`` only can only go together."""
        if varies(labels, dim):
            self.tie(labels, labels.narrow(dim, 0, 1))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Channels that must stay; the first reason given to one is the one that is kept."""
        (small,) = compact(labels)
        for number in torch.unique(small).tolist():
            self._reasons.setdefault(number, reason)

    def resolve(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """For every number the least one that it is tied to (its unit), and the reasons of the units that must stay."""
        unit = np.arange(self._count)
        pairs = np.concatenate(self._pairs, axis=1) if self._pairs else np.zeros((2, 0), dtype=np.int64)
        while True:
            ours, theirs = unit[pairs[0]], unit[pairs[1]]
            if (ours == theirs).all():
                break
            np.minimum.at(unit, np.maximum(ours, theirs), np.minimum(ours, theirs))
            while (unit != unit[unit]).any():
                unit = unit[unit]
        reasons: dict[int, str] = {}
        for number, reason in self._reasons.items():
            reasons.setdefault(int(unit[number]), reason)
        return unit, reasons
