from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.data.batches import crop
from slimsight.compress.errors import DataError


@pytest.fixture
def images(random_images: np.ndarray) -> ImageSet:
    return ImageSet(random_images, np.arange(20, dtype=np.int64) % 3, ("cat", "dog", "eel"))


def gather(batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    """All images, labels and indices of an epoch, in the order of the image set."""
    indices = torch.cat([batch.indices for batch in batches])
    back = indices.argsort()
    return (
        torch.cat([batch.images for batch in batches])[back],
        torch.cat([batch.labels for batch in batches])[back],
        indices,
    )


def naive_crop(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """The slow, obvious reference."""
    count, channels, height, width = images.shape
    result = torch.zeros_like(images)
    for n in range(count):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        canvas[:, padding : padding + height, padding : padding + width] = images[n]
        top, left = corners[n].tolist()
        result[n] = canvas[:, top : top + height, left : left + width]
    return result


def test_plain_batches_are_the_images_in_order_and_in_0_1(images: ImageSet, random_images: np.ndarray) -> None:
    batches = list(Batches(images, 8))
    assert [len(batch.labels) for batch in batches] == [8, 8, 4]
    pixels, labels, indices = gather(batches)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, torch.from_numpy(random_images) / 255, rtol=0, atol=0)
    assert labels.tolist() == images.labels.tolist()
    assert labels.dtype == indices.dtype == torch.int64
    assert indices.tolist() == list(range(20))


def test_shuffled_batches_hold_every_image_with_its_label(images: ImageSet, random_images: np.ndarray) -> None:
    batches = Batches(images, 8, shuffle=True, seed=5)
    pixels, labels, indices = gather(list(batches))
    assert indices.tolist() != list(range(20))
    assert sorted(indices.tolist()) == list(range(20))
    assert labels.tolist() == images.labels.tolist()
    torch.testing.assert_close(pixels, torch.from_numpy(random_images) / 255, rtol=0, atol=0)


def test_indices_count_within_a_subset(images: ImageSet, random_images: np.ndarray) -> None:
    part = images.subset([19, 3, 11])
    pixels, labels, indices = gather(list(Batches(part, 2, shuffle=True)))
    assert sorted(indices.tolist()) == [0, 1, 2]
    torch.testing.assert_close(pixels, torch.from_numpy(random_images[[19, 3, 11]]) / 255, rtol=0, atol=0)
    assert labels.tolist() == [1, 0, 2]


def test_an_epoch_depends_on_seed_and_number_only(images: ImageSet) -> None:
    def epoch(k: int, seed: int = 0, batch_size: int = 8) -> tuple[Tensor, Tensor]:
        batches = Batches(images, batch_size, shuffle=True, seed=seed, crop_padding=2, flip=True)
        if k:
            list(batches.epoch(0))
        pixels, _, indices = gather(list(batches.epoch(k)))
        return pixels, indices

    pixels, indices = epoch(3)
    torch.manual_seed(123)
    torch.testing.assert_close(epoch(3)[0], pixels, rtol=0, atol=0)
    torch.testing.assert_close(epoch(3, batch_size=5)[0], pixels, rtol=0, atol=0)
    assert epoch(3)[1].tolist() == indices.tolist()
    for other in (epoch(2), epoch(3, seed=1), epoch(2, seed=1)):
        assert other[1].tolist() != indices.tolist()


def test_crops_are_those_of_the_naive_reference(random_images: np.ndarray) -> None:
    raw = torch.from_numpy(random_images)
    corners = torch.randint(0, 7, (20, 2), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crop(raw, corners, 3), naive_crop(raw, corners, 3), rtol=0, atol=0)
    torch.testing.assert_close(crop(raw, torch.full((20, 2), 3), 3), raw, rtol=0, atol=0)


def test_padding_is_black_and_every_corner_occurs() -> None:
    white = ImageSet(np.full((2000, 3, 4, 4), 255, dtype=np.uint8), np.zeros(2000, dtype=np.int64), ("cat", "dog"))
    (batch,) = Batches(white, 2000, crop_padding=1)
    assert set(batch.images.unique().tolist()) == {0.0, 1.0}
    corners = [batch.images[:, 0, row, column].mean().item() for row in (0, 3) for column in (0, 3)]
    np.testing.assert_allclose(corners, 4 / 9, atol=0.05)  # inside when neither shift moves it out: (2/3)^2
    assert batch.images[:, :, 1:3, 1:3].min().item() == 1.0


def test_about_half_of_the_images_are_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(4, dtype=np.uint8), (2000, 3, 4, 4)).copy()
    (batch,) = Batches(ImageSet(ramp, np.zeros(2000, dtype=np.int64), ("cat", "dog")), 2000, flip=True)
    rows = (batch.images * 255).round()
    mirrored = rows[:, 0, 0, 0] == 3
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (rows[mirrored] == torch.tensor([3.0, 2.0, 1.0, 0.0])).all()
    assert (rows[~mirrored] == torch.tensor([0.0, 1.0, 2.0, 3.0])).all()


@pytest.mark.parametrize(("drop_last", "batches", "count"), [(False, 3, 20), (True, 2, 16)])
def test_lengths_are_what_an_epoch_yields(images: ImageSet, drop_last: bool, batches: int, count: int) -> None:
    loader = Batches(images, 8, drop_last=drop_last)
    sizes = [len(batch.labels) for batch in loader]
    assert (len(loader), loader.count) == (batches, count) == (len(sizes), sum(sizes))


def test_batches_do_not_write_into_the_images(images: ImageSet, random_images: np.ndarray) -> None:
    before = random_images.copy()
    for batch in Batches(images, 8, flip=True):
        batch.images.zero_()
    np.testing.assert_array_equal(random_images, before)


def test_too_few_images_for_a_batch_are_refused(images: ImageSet) -> None:
    with pytest.raises(DataError, match="20 images do not fill one batch of 32; give more images or set a smaller"):
        Batches(images, 32, drop_last=True)
    with pytest.raises(DataError, match="0 images do not fill one batch of 1"):
        Batches(images.subset([]), 32)
    assert len(Batches(images, 32)) == 1


def test_windows_depend_on_seed_epoch_and_place_only(images: ImageSet) -> None:
    def epoch(k: int, size: int = 4, start: int = 0, **options: object) -> Tensor:
        batches = Batches(images, size, shuffle=True, crop_scale=(0.2, 0.6), **{"seed": 3, **options})  # type: ignore[arg-type]
        return torch.cat([batch.images for batch in batches.epoch(k, start)])

    whole = epoch(1)
    assert torch.equal(whole, epoch(1, size=3))
    assert torch.equal(whole[4:], epoch(1, start=1))
    assert not torch.equal(whole, epoch(2))
    assert not torch.equal(whole, epoch(1, seed=4))


def test_windows_are_scaled_parts_of_their_image(images: ImageSet) -> None:
    side = 32
    ramp = np.tile(np.linspace(0, 255, side).astype(np.uint8), (40, 3, side, 1))
    labelled = ImageSet(ramp, np.zeros(40, dtype=np.int64), ("a", "b"))
    shown = gather(list(Batches(labelled, 8, crop_scale=(0.25, 0.25)).epoch(0)))[0]
    assert shown.shape == (40, 3, side, side)
    spans = (shown[:, 0, :, -1] - shown[:, 0, :, 0]).mean(1)
    # Windows of a quarter of the area and of aspect ratios from 3/4 to 4/3 are .43 to .58 of the width.
    assert spans.min() > 0.40
    assert spans.max() < 0.60
    starts = shown[:, 0, 0, 0]
    assert starts.min() < 0.1
    assert starts.max() > 0.4
    whole = gather(list(Batches(labelled, 8, crop_scale=(1, 1), crop_padding=9).epoch(0)))[0]
    assert torch.equal(whole, torch.from_numpy(ramp).float() / 255)
