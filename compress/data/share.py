"""Which rows of every batch a reader is given: all of them, or what one of several processes computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..distributed import Part, even

Share = Callable[[int, int], Sequence[slice]]
"""The number of a batch in its epoch and its size -> the rows to read, each of them as a batch of its own."""


def all_rows(number: int, size: int) -> Sequence[slice]:
    """Whole batches."""
    del number
    return [slice(0, size)]


def rows_of(rank: int, world: int, accumulate: int = 1) -> Share:
    """What process ``rank`` of ``world`` learns on: ``accumulate`` parts of every batch, and its share of each.

    The parts are those of a single process, so that their batch statistics do not depend on ``world``.
    """

    def share(number: int, size: int) -> Sequence[slice]:
        del number
        parts = (even(size, k, accumulate) for k in range(accumulate))
        mine = ((part.start, even(part.stop - part.start, rank, world)) for part in parts)
        return [slice(start + rows.start, start + rows.stop) for start, rows in mine]

    return share


def batches_of(rank: int, world: int) -> Share:
    """Every ``world``-th batch as a whole: what is computed of an image is then the same to the bit."""
    return lambda number, size: [slice(0, size)] if number % world == rank else []


def pieces(number: int, size: int, share: Share) -> Iterator[Part]:
    """The parts of batch ``number`` that ``share`` gives."""
    for rows in share(number, size):
        assert rows.start < rows.stop <= size, "recipes allow no batch with fewer images than processes"
        yield Part(rows.start, rows.stop, size)
