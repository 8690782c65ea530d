"""Drift beside its chance level: identical maps, maps of other images, and everything between."""

import pytest
import torch
from torch import Tensor

from slimsight.compress.errors import DataError
from slimsight.compress.explain.base import Saliency
from slimsight.compress.explain.fidelity.chance import drift_against_chance

SIDE = 16


class Spots:
    """A map with one square of four pixels a side at the image's own place, moved ``by`` columns."""

    name = "spots"

    def __init__(self, by: int = 0, bad: float | None = None) -> None:
        self.by, self.bad = by, bad

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        maps = torch.zeros(len(images), SIDE, SIDE)
        for row, image in enumerate(images):
            place = int(image[0, 0, 0])
            maps[row, place : place + 4, self.by : self.by + 4] = 1
        if self.bad is not None:
            maps[0, 0, 0] = self.bad
        return Saliency(maps)


@pytest.fixture
def images() -> Tensor:
    """40 images of two classes; class k looks at rows 8 k to 8 k + 3."""
    places = (torch.arange(40) % 2) * 8.0
    return places.view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)


LABELS = torch.arange(40) % 2


def test_nothing_moved(images: Tensor) -> None:
    found = drift_against_chance(Spots(), Spots(), images, LABELS)
    assert found.drift.region_iou.mean == 1
    assert found.chance.mean == 0  # another image is one of the other class, whose square is elsewhere
    assert found.share.mean == 0
    assert found.share.images == 40


def test_half_of_the_way_and_all_of_it(images: Tensor) -> None:
    half = drift_against_chance(Spots(), Spots(by=2), images, LABELS)
    overlap = half.drift.region_iou.mean
    assert overlap is not None
    assert 0 < overlap < 1
    assert half.share.mean == pytest.approx(1 - overlap)
    gone = drift_against_chance(Spots(), Spots(by=8), images, LABELS)
    assert gone.drift.region_iou.mean == 0
    assert gone.share.mean == 1


def test_where_all_images_look_alike_there_is_no_way_to_go(images: Tensor) -> None:
    same = torch.zeros_like(images)
    found = drift_against_chance(Spots(), Spots(), same, LABELS)
    assert found.chance.mean == 1
    assert found.share.mean is None
    assert found.share.images == 0


def test_chance_is_between_classes_whatever_the_order_of_the_images(images: Tensor) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = drift_against_chance(Spots(), Spots(by=2), images[order], LABELS[order])
    straight = drift_against_chance(Spots(), Spots(by=2), images, LABELS)
    assert found.chance == straight.chance
    assert found.share.mean == pytest.approx(straight.share.mean)


def test_maps_that_are_not_finite_are_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="a map of the slim model holds NaN or infinity"):
        drift_against_chance(Spots(), Spots(bad=float("nan")), images, LABELS)
