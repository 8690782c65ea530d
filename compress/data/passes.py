"""One pass over images that are neither shuffled nor augmented, by all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..distributed import alone, gather, rank, world
from ..progress import SILENT, Progress
from .batches import Batch
from .loader import BatchSource
from .share import batches_of

T = TypeVar("T")


def one_pass(
    batches: BatchSource,
    work: Callable[[int, Batch], T],
    *,
    what: str | None = None,
    progress: Progress = SILENT,
) -> list[T]:
    """``work(number, batch)`` of every batch, in order: each is done by one process, and all get all results.

    Batches are those of a single process, so that results are the same to the bit, whoever computed them; ``work``
    must not draw random numbers that depend on the batches before. Results lie on the CPU.

    Args:
        what: to show progress under.
    """
    processes, first = world(), rank()
    own = batches.epoch(0, share=batches_of(first, processes))
    if what is not None:
        total = -(-len(batches) // processes)
        own = progress.track(own, what, total=total, unit="img", scale=processes * batches.batch_size)
    with alone():
        found = [work(first + processes * k, batch) for k, batch in enumerate(own)]
    every = gather(found)
    return [every[number % processes][number // processes] for number in range(sum(map(len, every)))]
