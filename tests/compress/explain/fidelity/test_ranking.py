from typing import Any

import pytest
import torch
from torch import Tensor

from slimsight.compress.errors import DataError
from slimsight.compress.explain import Saliency
from slimsight.compress.explain.fidelity import explain_images, is_constant, predicted_classes, to_ranks
from slimsight.compress.models import Classifier


def test_ranks_follow_the_map_from_least_to_most() -> None:
    maps = torch.tensor([[[3.0, -1.0], [2.0, 7.0]]])
    assert to_ranks(maps).tolist() == [[[2, 0], [1, 3]]]


def test_every_row_is_a_permutation_that_respects_values_whatever_the_seed() -> None:
    maps = torch.randint(0, 4, (9, 6, 5), generator=torch.Generator().manual_seed(3)).float()
    for seed in (0, 1):
        ranks = to_ranks(maps, seed=seed)
        assert ranks.flatten(1).sort(1).values.tolist() == [list(range(30))] * 9
        in_order = torch.zeros(9, 30).scatter_(1, ranks.flatten(1), maps.flatten(1))
        assert bool((in_order.diff(dim=1) >= 0).all())


def test_ties_are_drawn_by_seed_and_differ_from_image_to_image() -> None:
    """Left to memory order, a constant map would remove every image from its top-left corner on."""
    maps = torch.zeros(400, 4, 4)
    ranks = to_ranks(maps, seed=0)
    torch.testing.assert_close(ranks, to_ranks(maps, seed=0))
    assert not torch.equal(ranks, to_ranks(maps, seed=1))
    assert not torch.equal(ranks[0], ranks[1])
    means = ranks.double().mean(0)  # every pixel goes early as often as late: 7.5 +- 4.6 / 20
    assert bool(((means - 7.5).abs() < 5 * 4.61 / 20).all())


def test_a_constant_map_is_named_and_a_single_pixel_makes_a_difference() -> None:
    maps = torch.full((3, 4, 4), 2.5)
    maps[1, 3, 3] += 1e-6
    assert is_constant(maps).tolist() == [True, False, True]


def test_maps_are_collected_in_order_and_keep_their_sign(classifier: Classifier, gradient: Any, many: Tensor) -> None:
    explainer = gradient(classifier)
    labels = predicted_classes(classifier, many, batch_size=7)
    torch.testing.assert_close(labels, classifier(many).argmax(1))
    found = explain_images(explainer, many, labels, batch_size=7)
    torch.testing.assert_close(found.maps, explainer.explain(many, labels).maps, rtol=1e-4, atol=1e-6)
    assert float(found.maps.min()) < 0
    torch.testing.assert_close(found.importance, found.maps.abs())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_without_an_order_is_refused_by_image(many: Tensor, bad: float) -> None:
    class Broken:
        name = "broken"

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            maps = images.mean(1)
            maps[images.flatten(1).sum(1) == many[9].sum(), 2, 3] = bad
            return Saliency(maps)

    with pytest.raises(DataError, match=r"explainer 'broken' gives a map with NaN or infinity for image 9"):
        explain_images(Broken(), many, torch.zeros(20, dtype=torch.int64), batch_size=4)


def test_a_map_of_another_size_is_refused(many: Tensor) -> None:
    class Small:
        name = "small"

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            return Saliency(images[:, 0, ::2, ::2])

    with pytest.raises(DataError, match=r"'small' gives maps \(20, 8, 8\) for images \(20, 3, 16, 16\)"):
        explain_images(Small(), many, torch.zeros(20, dtype=torch.int64))
