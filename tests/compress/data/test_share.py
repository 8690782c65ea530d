"""What each of several processes reads of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from slimsight.compress.data import (
    Batch,
    Batches,
    BatchSource,
    ImageSet,
    LoaderBatches,
    TensorBatches,
    round_robin,
    shard_rows,
)


@pytest.fixture
def images(random_images: np.ndarray) -> ImageSet:
    return ImageSet(random_images, np.arange(20, dtype=np.int64) % 3, ("cat", "dog", "eel"))


@pytest.mark.parametrize(("size", "world", "accumulate"), itertools.product((7, 8, 65), (1, 2, 3), (1, 2)))
def test_shares_are_all_rows_once_and_as_even_as_can_be(size: int, world: int, accumulate: int) -> None:
    shares = [shard_rows(rank, world, accumulate)(0, size) for rank in range(world)]
    assert [len(share) for share in shares] == [accumulate] * world
    in_order = [row for part in zip(*shares, strict=True) for rows in part for row in range(size)[rows]]
    assert in_order == list(range(size))
    lengths = [rows.stop - rows.start for share in shares for rows in share]
    assert max(lengths) - min(lengths) <= (1 if accumulate == 1 else 2)


def test_parts_are_those_of_one_process() -> None:
    """Batch statistics are a part's: where it begins must not depend on how many processes there are."""
    whole = shard_rows(0, 1, 3)(0, 20)
    shares = [shard_rows(rank, 4, 3)(0, 20) for rank in range(4)]
    assert [(part[0].start, part[-1].stop) for part in zip(*shares, strict=True)] == [
        (rows.start, rows.stop) for rows in whole
    ]


def augmented(images: ImageSet) -> Batches:
    return Batches(images, 8, shuffle=True, seed=3, crop_padding=2, flip=True)


def in_memory(images: ImageSet) -> TensorBatches:
    return TensorBatches(torch.from_numpy(images.images[:]).float(), torch.from_numpy(images.labels), 8, seed=3)


def of_a_loader(images: ImageSet) -> LoaderBatches:
    return LoaderBatches([(batch.images, batch.labels) for batch in augmented(images).epoch(0)])


def joined(parts: Iterator[Batch]) -> list[Batch]:
    """Parts of 8 rows as batches again; the positions that they say are checked."""
    found: list[Batch] = []
    for part in parts:
        assert part.part is not None
        assert part.part.stop - part.part.start == len(part.labels)
        if part.part.start:
            last = found.pop()
            part = Batch(*(torch.cat([a, b]) for a, b in zip(last[:3], part[:3], strict=True)), part.part)
        found.append(part)
    return found


@pytest.mark.parametrize("source", [augmented, in_memory, of_a_loader])
def test_an_image_is_the_same_whoever_reads_it(source: Callable[[ImageSet], BatchSource], images: ImageSet) -> None:
    batches = source(images)
    expected = list(batches.epoch(1, 1))
    shares = [list(batches.epoch(1, 1, sharding=shard_rows(rank, 2))) for rank in (0, 1)]
    found = joined(part for pair in zip(*shares, strict=True) for part in pair)
    assert len(found) == len(expected) >= 1
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.part is None
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True))


def test_whole_batches_go_around(images: ImageSet) -> None:
    batches = augmented(images)
    shares = [list(batches.epoch(0, sharding=round_robin(rank, 2))) for rank in (0, 1)]
    assert [len(share) for share in shares] == [2, 1]
    expected = list(batches.epoch(0))
    for number, batch in enumerate(expected):
        mine = shares[number % 2][number // 2]
        assert mine.part is None
        assert torch.equal(mine.images, batch.images)
