"""Drift of maps: slow references, copies, randomised networks, maps that say nothing."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from slimsight.compress.data import Batches
from slimsight.compress.errors import DataError
from slimsight.compress.explain import (
    ExplainedClassifier,
    Explainer,
    RbfExplainer,
    Saliency,
    explanations,
    make_explainer,
    rbf_map,
    rbf_saliency,
)
from slimsight.compress.explain.fidelity import ImageDrifts, MapDrift, compare_maps, drift_of_numbers, explainer_drift
from slimsight.compress.explain.fidelity.similarity import CONSTANT, INFORMATIVE, ZERO, region

SIDE = 16


def naive_region(values: Tensor, share: float) -> set[tuple[int, int]]:
    """Pixels from the largest down, until they hold the share."""
    height, width = values.shape
    pixels = sorted((-float(values[i, j]), i, j) for i in range(height) for j in range(width))
    total, held, chosen = -sum(pixel[0] for pixel in pixels), 0.0, set()
    for value, i, j in pixels:
        if held >= share * total - 1e-12:
            break
        held -= value
        chosen.add((i, j))
    return chosen


def dot(row: int, column: int, side: int = SIDE) -> Tensor:
    """(1, side, side) one bright pixel."""
    maps = torch.zeros(1, side, side)
    maps[0, row, column] = 1.0
    return maps


def test_a_region_is_the_smallest_set_that_holds_half() -> None:
    torch.manual_seed(0)
    maps = torch.rand(5, 6, 7)
    for values, found in zip(maps, region(maps, 0.5), strict=True):
        assert {tuple(place) for place in found.nonzero().tolist()} == naive_region(values, 0.5)
    assert region(torch.tensor([[[4.0, 2.0], [1.0, 1.0]]]), 0.5).flatten().tolist() == [True, False, False, False]
    assert region(torch.ones(1, 2, 2), 0.5).flatten().tolist() == [True, True, False, False]


def test_every_figure_against_its_definition() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(4, 8, 8), torch.randn(4, 8, 8)
    found = compare_maps(Saliency(ours), Saliency(theirs))
    for row in range(4):
        mass = [np.maximum(maps[row].double().numpy(), 0) for maps in (ours, theirs)]
        centres = [
            [sum(k * line for k, line in enumerate(each.sum(1 - axis))) / each.sum() for axis in (0, 1)]
            for each in mass
        ]
        assert float(found.center_px[row]) == pytest.approx(math.dist(*centres), rel=1e-9)
        a, b = (naive_region(maps[row].clamp_min(0), 0.5) for maps in (ours, theirs))
        assert float(found.region_iou[row]) == pytest.approx(len(a & b) / len(a | b))
        ranks = spearmanr(ours[row].flatten(), theirs[row].flatten()).statistic
        assert float(found.spearman[row]) == pytest.approx(ranks, abs=1e-9)
        p, q = (0.999 * each.ravel() / each.sum() + 0.001 / 64 for each in mass)
        assert float(found.kl[row]) == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-9)


def test_signed_maps_are_compared_by_magnitude() -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 8)
    same = compare_maps(Saliency(maps, signed=True), Saliency(-maps, signed=True))
    assert same.center_px.abs().max() == 0
    assert same.region_iou.tolist() == [1, 1, 1]
    assert float(compare_maps(Saliency(maps), Saliency(-maps)).region_iou.max()) == 0


@pytest.mark.parametrize(("shift", "moved"), [(0, 0), (1, 1), (3, 1)])
def test_a_top_region_that_shares_no_pixel_has_moved(shift: int, moved: int) -> None:
    assert compare_maps(Saliency(dot(4, 4)), Saliency(dot(4, 4 + shift))).moved.tolist() == [moved]


def test_a_centre_that_went_an_eighth_of_the_side_has_moved() -> None:
    def with_mass(column: int, weight: float) -> Saliency:
        return Saliency(dot(8, 2) + weight * dot(8, column))

    # Centres at 2 + weight / (1 + weight) * distance; the top pixel stays where it is.
    near, far = compare_maps(with_mass(4, 0.5), with_mass(6, 0.5)), compare_maps(with_mass(4, 0.5), with_mass(12, 0.5))
    assert float(near.center_px) == pytest.approx(2 / 3)
    assert near.moved.tolist() == [0]
    assert float(far.center_px) == pytest.approx(8 / 3)
    assert far.moved.tolist() == [1]


def test_rbf_keeps_its_own_centres() -> None:
    """Near an edge the mass that is left has another centre."""
    before, after = torch.tensor([[1.0, 1.0, 5.0]]), torch.tensor([[4.0, 5.0, 5.0]])
    found = compare_maps(rbf_saliency(before, SIDE), rbf_saliency(after, SIDE))
    assert float(found.center_px) == pytest.approx(5)
    by_mass = compare_maps(Saliency(rbf_map(before, SIDE)[:, 0]), Saliency(rbf_map(after, SIDE)[:, 0]))
    assert float(by_mass.center_px) < 4


def test_maps_that_say_nothing_are_counted_and_never_averaged() -> None:
    says, flat, zero = dot(3, 3), torch.full((1, SIDE, SIDE), 0.4), -torch.ones(1, SIDE, SIDE)
    original = torch.cat([says, says, says, flat, zero])
    slim = torch.cat([says, flat, zero, says, flat])
    each = compare_maps(Saliency(original), Saliency(slim))
    assert each.original.tolist() == [INFORMATIVE, INFORMATIVE, INFORMATIVE, CONSTANT, ZERO]
    found = MapDrift.of("any", each)
    assert found.degenerate == {"original": {"constant": 1, "zero": 1}, "slim": {"constant": 2, "zero": 1}}
    assert found.images == 5
    assert found.lost == 3 / 5
    assert (found.center_px.mean, found.center_px.images) == (0, 1)  # only of maps that both say something
    assert found.spearman.images == found.kl.images == 1
    assert (found.region_iou.mean, found.region_iou.images) == (1 / 4, 4)  # a lost explanation overlaps with nothing
    assert (found.moved.mean, found.moved.images) == (3 / 4, 4)
    assert [image.index for image in found.worst] == [1, 2, 3, 0]
    assert found.worst[0].center_px is None
    assert found.worst[0].moved is True


def test_nothing_to_compare_is_no_figure() -> None:
    flat = Saliency(torch.ones(2, 4, 4))
    found = MapDrift.of("any", compare_maps(flat, flat))
    assert (found.center_px.mean, found.region_iou.mean, found.lost, found.worst) == (None, None, 0.0, ())


def test_rounding_leaves_a_constant_map_constant() -> None:
    torch.manual_seed(0)
    noisy = 0.3 + 1e-8 * torch.rand(1, 8, 8)
    assert compare_maps(Saliency(noisy), Saliency(noisy)).original.tolist() == [CONSTANT]


def test_maps_that_cannot_be_compared_are_refused() -> None:
    maps = torch.rand(2, 4, 4)
    with pytest.raises(DataError, match="do not compare: explain the same images"):
        compare_maps(Saliency(maps), Saliency(maps[:1]))
    broken = maps.clone()
    broken[1, 2, 3] = torch.nan
    with pytest.raises(DataError, match="a map of the slim model holds NaN or infinity"):
        compare_maps(Saliency(maps), Saliency(broken))


def test_the_worst_overlap_least_then_moved_furthest() -> None:
    before = torch.cat([dot(8, 8)] * 4)
    after = torch.cat([dot(8, 9), dot(8, 8), dot(8, 15), dot(9, 9)])
    found = MapDrift.of("any", compare_maps(Saliency(before), Saliency(after), torch.tensor([40, 10, 30, 20])), worst=3)
    assert [image.index for image in found.worst] == [30, 20, 40]
    assert found.worst[0].center_px == 7
    assert found.to_dict()["worst"][0]["region_iou"] == 0


EXPLAINERS = ("rbf", "gradient", "grad_cam")


def explainer_of(name: str, network: ExplainedClassifier) -> Explainer:
    return RbfExplainer(network) if name == "rbf" else make_explainer(name, network.classifier)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_drift_between_a_model_and_its_copy(network: ExplainedClassifier, val: Batches, name: str) -> None:
    found = explainer_drift(explainer_of(name, network), explainer_of(name, copy.deepcopy(network)), val)
    assert found.images == val.count
    assert found.center_px.mean == pytest.approx(0, abs=1e-6)
    assert found.region_iou.mean == pytest.approx(1, abs=1e-6)
    assert found.spearman.mean == pytest.approx(1, abs=1e-6)
    assert found.kl.mean == pytest.approx(0, abs=1e-6)
    assert found.moved.mean == 0
    assert found.lost == 0


@pytest.mark.parametrize("name", ["gradient", "grad_cam"])
def test_a_randomised_model_drifts(network: ExplainedClassifier, val: Batches, name: str) -> None:
    other = copy.deepcopy(network)
    torch.manual_seed(7)
    for parameter in other.classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    found = explainer_drift(explainer_of(name, network), explainer_of(name, other), val)
    assert found.region_iou.mean < 0.6
    assert found.spearman.mean < 0.6
    assert found.kl.mean > 0.2
    assert found.center_px.mean > 0.5


def test_rbf_drifts_when_its_head_does(network: ExplainedClassifier, val: Batches) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.selector.head.bias[:2] += torch.tensor([6.0, -6.0])
        other.selector.head.bias[2] -= 4
        network.selector.head.bias[2] -= 4
    found = explainer_drift(RbfExplainer(network), RbfExplainer(other), val)
    assert found.center_px.mean > 3
    assert found.moved.mean == 1


def test_both_explain_the_labels_and_images_keep_their_numbers(network: ExplainedClassifier, val: Batches) -> None:
    asked: list[list[int]] = []

    class Listening:
        name = "listening"

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            assert labels is not None
            asked.append(labels.tolist())
            return Saliency(images.mean(1))

    found = explainer_drift(Listening(), Listening(), val)
    assert asked[::2] == asked[1::2] == [batch.labels.tolist() for batch in val]
    assert found.each.indices.tolist() == list(range(val.count))


def test_numbers_say_what_their_maps_do(network: ExplainedClassifier, val: Batches) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.selector.head.bias += 1
    by_maps = explainer_drift(RbfExplainer(network), RbfExplainer(other), val)
    numbers = [explanations(each, val) for each in (network, other)]
    by_numbers = drift_of_numbers("rbf", *numbers, lambda said: rbf_saliency(said, SIDE))
    assert by_numbers == by_maps
    some = drift_of_numbers("rbf", *numbers, lambda said: rbf_saliency(said, SIDE), most=5)
    assert some.each.indices.tolist() == [0, 5, 10, 14, 19]


def test_rows_are_joined_in_order() -> None:
    parts = [compare_maps(Saliency(dot(1, 1)), Saliency(dot(1, column)), torch.tensor([column])) for column in (1, 5)]
    assert ImageDrifts.joined(parts).center_px.tolist() == [0, 4]
