"""Controls depend on the image at most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimsight.compress.explain import make_explainer
from slimsight.compress.models import Classifier

CONTROLS = ("random", "edges", "centre", "constant")


def test_weights_and_labels_change_nothing(classifier: Classifier, images: Tensor) -> None:
    before = {name: make_explainer(name, classifier).explain(images).maps for name in CONTROLS}
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(0))
    for name, maps in before.items():
        other = torch.arange(6) % 3
        assert torch.equal(make_explainer(name, classifier).explain(images, other).maps, maps)


def test_noise_is_uniform_and_another_for_every_image(classifier: Classifier, images: Tensor) -> None:
    maps = make_explainer("random", classifier).explain(images).maps
    assert len({tuple(drawn.flatten().tolist()) for drawn in maps}) == 6
    assert 0.45 < maps.mean() < 0.55
    assert maps.min() >= 0
    assert maps.max() < 1


def test_edges_of_a_step(classifier: Classifier) -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, :, 8:] = 0.5
    maps = make_explainer("edges", classifier).explain(images).maps
    expected = torch.zeros(1, 16, 16)
    expected[:, :, 7:9] = 4 * 0.5  # 1 + 2 + 1 rows, borders repeated
    torch.testing.assert_close(maps, expected)


def test_nearness_falls_with_the_distance_in_pixels_from_the_middle(classifier: Classifier) -> None:
    maps = make_explainer("centre", classifier).explain(torch.rand(2, 3, 5, 9)).maps
    assert torch.equal(maps[0], maps[1])
    assert maps[0].argmax() == 2 * 9 + 4
    assert maps[0, 0, 0] == maps[0, 4, 8] == 0
    assert maps[0, 2, 4] - maps[0, 2, 7] == pytest.approx(3)
    assert maps[0, 2, 4] == pytest.approx(20**0.5)  # to a corner: two rows and four columns


def test_a_constant_has_no_ranks(classifier: Classifier, images: Tensor) -> None:
    assert make_explainer("constant", classifier).explain(images).maps.unique().tolist() == [1.0]
