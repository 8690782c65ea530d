"""A few images spread over a larger source."""

from __future__ import annotations

import numpy as np
import torch

from slimsight.compress.data import Batches, ImageSet, LoaderBatches, Subsample, one_pass
from slimsight.compress.data.batches import round_robin

SORTED = np.arange(20, dtype=np.int64) // 4  # by class, as validation images are


def images() -> ImageSet:
    pixels = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 3, 8, 8)).copy()
    return ImageSet(pixels, SORTED, tuple("abcde"))


def test_every_batch_gives_a_few_rows_of_all_classes() -> None:
    few = Subsample(Batches(images(), 8), 6)
    assert (len(few), few.batch_size) == (3, 2)
    batches = list(few.epoch(0))
    assert [batch.indices.tolist() for batch in batches] == [[2, 6], [10, 14], [17, 19]]
    assert torch.cat([batch.labels for batch in batches]).tolist() == SORTED[[2, 6, 10, 14, 17, 19]].tolist()
    pixels = torch.cat([batch.images[:, 0, 0, 0] for batch in batches])
    assert (pixels * 255).round().tolist() == [2, 6, 10, 14, 17, 19]
    assert all(batch.part is None for batch in batches)
    assert [batch.indices.tolist() for batch in few.epoch(3)] == [batch.indices.tolist() for batch in batches]


def test_a_source_with_fewer_images_gives_all() -> None:
    few = Subsample(Batches(images(), 8), 1000)
    assert torch.cat([batch.indices for batch in few.epoch(0)]).tolist() == list(range(20))
    single = Subsample(Batches(images(), 1), 5)  # at least one of each batch
    assert len(torch.cat([batch.indices for batch in single.epoch(0)])) == 20


def test_processes_share_its_batches() -> None:
    few = Subsample(Batches(images(), 8), 6)
    shares = [[batch.indices.tolist() for batch in few.epoch(0, sharding=round_robin(rank, 2))] for rank in (0, 1)]
    assert shares == [[[2, 6], [17, 19]], [[10, 14]]]
    assert one_pass(few, lambda number, batch: (number, len(batch.labels))) == [(0, 2), (1, 2), (2, 2)]


def test_a_users_loader_is_sampled_too() -> None:
    loader = [(torch.full((4, 3, 8, 8), 0.1 * k), torch.full((4,), k)) for k in range(5)]
    few = Subsample(LoaderBatches(loader), 5)
    assert [batch.labels.tolist() for batch in few.epoch(0)] == [[0], [1], [2], [3], [4]]
