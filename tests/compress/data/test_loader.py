"""Users' loaders as batches: what comes out, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from slimsight.compress.data import LoaderBatches, TensorBatches, first_batches, first_images
from slimsight.compress.errors import DataError

IMAGES, LABELS = torch.arange(10 * 3 * 4 * 4).reshape(10, 3, 4, 4).double(), torch.arange(10, dtype=torch.int32)


def pairs(size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(IMAGES.split(size), LABELS.split(size), strict=True))


@pytest.mark.parametrize("loader", [pairs(), DataLoader(TensorDataset(IMAGES, LABELS), 4)])
def test_batches_of_a_loader(loader: Any) -> None:
    batches = LoaderBatches(loader)
    assert (len(batches), batches.batch_size) == (3, 4)
    for epoch in range(2):
        found = list(batches.epoch(epoch))
        assert torch.equal(torch.cat([batch.images for batch in found]), IMAGES.float())
        assert torch.equal(torch.cat([batch.labels for batch in found]), LABELS.long())
        assert torch.cat([batch.indices for batch in found]).tolist() == list(range(10))


def test_batches_of_a_loader_without_length() -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter(pairs(5))

    assert len(LoaderBatches(Endless())) == 2


def test_tensors_are_reshuffled_by_seed_and_epoch() -> None:
    batches = TensorBatches(IMAGES, LABELS, 4, seed=1)
    assert len(batches) == 2
    first, again, other = ([b.indices.tolist() for b in batches.epoch(k)] for k in (0, 0, 1))
    assert first == again != other
    for batch in batches.epoch(0):
        assert torch.equal(batch.images, IMAGES[batch.indices])
        assert torch.equal(batch.labels, LABELS[batch.indices])
    plain = TensorBatches(IMAGES, LABELS, 4, shuffle=False)
    assert [len(batch.labels) for batch in plain.epoch(0)] == [4, 4, 2] == [4] * (len(plain) - 1) + [2]
    assert TensorBatches(IMAGES, LABELS, 64).batch_size == 10


@pytest.mark.parametrize(("count", "found"), [(3, 3), (4, 4), (9, 9), (99, 10)])
def test_the_first_images(count: int, found: int) -> None:
    images, labels = first_images(pairs(), count)
    assert torch.equal(images, IMAGES[:found].float())
    assert labels is not None
    assert torch.equal(labels, LABELS[:found].long())


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: (images,), lambda images: [images]])
def test_loaders_of_images_alone_have_no_labels(wrap: Any) -> None:
    alone = [wrap(images) for images, _ in pairs()]
    images, labels = first_images(alone, 9)
    assert labels is None
    assert torch.equal(images, IMAGES[:9].float())
    assert torch.equal(torch.cat(list(first_batches(alone, 99))), IMAGES.float())
    assert torch.equal(torch.cat(list(first_batches(pairs(), 99))), IMAGES.float())
    with pytest.raises(DataError, match="labels with 1 of its first 2 batches: give them with all of them, or with"):
        first_images([wrap(IMAGES), (IMAGES, LABELS)], 99)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"x": IMAGES}, "yields a dict; every batch"),
        ((IMAGES, [1, 2]), "a tuple of Tensor, list"),
        ((IMAGES.byte(), LABELS), "images are .*uint8"),
        ((IMAGES[0], LABELS), r"images are \(3, 4, 4\)"),
        ((IMAGES, LABELS.float()), "labels are .*float32"),
        ((IMAGES, LABELS[:5]), r"labels are \(5,\)"),
    ],
)
def test_what_is_no_batch_is_refused(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LoaderBatches([item])
    with pytest.raises(DataError, match=message):
        first_images([item], 3)


def test_what_needs_labels_refuses_images_alone() -> None:
    with pytest.raises(DataError, match="yields a Tensor; every batch must be"):
        LoaderBatches([IMAGES])
    with pytest.raises(DataError, match=r"images are \(3, 4, 4\)"):
        first_images([IMAGES[0]], 3)


def test_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no batches"):
        LoaderBatches([])
    with pytest.raises(DataError, match="no batches"):
        first_images([], 3)
    spent = LoaderBatches(iter(pairs()))
    with pytest.raises(DataError, match="the second time"):
        list(spent.epoch(1))
