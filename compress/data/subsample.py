"""A few images of a larger source, spread evenly over it: for checks that must be cheap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from .batches import Batch, Sharding, all_rows
from .loader import BatchSource


class Subsample:
    """The same rows of every batch of ``source``: about ``count`` images, whatever order its classes are in.

    One batch for each batch of ``source``, which is not to be shuffled.

    Args:
        count: images wanted; all of them where the source has fewer. A source has at least one per batch.
    """

    def __init__(self, source: BatchSource, count: int) -> None:
        assert count > 0
        self._source = source
        self.batch_size = min(source.batch_size, math.ceil(count / len(source)))

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._source)

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        """See ``BatchSource``; batches are whole or left out."""

        def rows(number: int, size: int) -> Sequence[slice]:
            few = min(self.batch_size, size)
            chosen = sharding(number, few)
            assert list(chosen) in ([], [slice(0, few)]), "a subsample is not split"
            return [slice(at, at + 1) for at in _spread(few, size)] if chosen else []

        single = self._source.epoch(k, start, sharding=rows)
        for first in single:
            size = 1 if first.part is None else first.part.total
            others = itertools.islice(single, min(self.batch_size, size) - 1)
            images, labels, indices = zip(*(batch[:3] for batch in (first, *others)), strict=True)
            yield Batch(torch.cat(images), torch.cat(labels), torch.cat(indices))


def _spread(count: int, total: int) -> list[int]:
    """``count`` different positions, evenly spaced in ``total``."""
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]
