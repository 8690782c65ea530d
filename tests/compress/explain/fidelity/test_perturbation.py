"""Everything that takes pixels away, against slow references."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slimsight.compress.errors import DataError
from slimsight.compress.explain import Predictor
from slimsight.compress.explain.fidelity import (
    insertion_deletion,
    pixel_perturbation,
    predicted_classes,
    tile_degradation,
    to_ranks,
)
from slimsight.compress.explain.fidelity.perturbation import keep_pixels, tile_index
from slimsight.compress.models import Classifier


def after(classifier: Classifier, images: Tensor, kept: Tensor) -> Tensor:
    """Probabilities seen through a mask after normalisation."""
    with torch.no_grad():
        return Predictor(classifier)(images, kept[:, None].float()).softmax(1)


def test_removed_pixels_are_zero_after_normalisation(classifier: Classifier, many: Tensor) -> None:
    kept = torch.rand(20, 16, 16) < 0.5
    left = classifier.normalize(keep_pixels(many, kept, classifier.normalize.mean))
    torch.testing.assert_close(left, classifier.normalize(many) * kept[:, None])
    assert bool((left[~kept[:, None].expand_as(left)] == 0).all())


def test_perturbation_is_what_the_papers_say_pixel_by_pixel(classifier: Classifier, many: Tensor) -> None:
    maps = torch.rand(20, 16, 16)  # no ties: their order is ours alone
    shares = (0.0, 0.004, 0.3, 1.0)  # 0.004 of 256 pixels is 1; nothing removed must not become everything
    found = pixel_perturbation(classifier, many, maps, shares=shares, batch_size=6)
    whole = classifier(many).softmax(1).detach()
    label = whole.argmax(1)
    for share, kl, change in zip(shares, found.kl.values, found.change.values, strict=True):
        kept = torch.ones(20, 16, 16, dtype=torch.bool)
        for image in range(20):
            lowest = maps[image].flatten().argsort()[: round(share * 256)]
            kept[image].view(-1)[lowest] = False
        now = after(classifier, many, kept)
        kls = (whole * (whole / now).log()).sum(1)
        changes = (now.gather(1, label[:, None]) / whole.gather(1, label[:, None]) - 1).abs()
        assert kl.mean == pytest.approx(float(kls.mean()), abs=1e-5, rel=1e-4)
        assert kl.standard_error == pytest.approx(float(kls.std()) / 20**0.5, abs=1e-5, rel=1e-3)
        assert change.mean == pytest.approx(float(changes.mean()), abs=1e-5, rel=1e-4)
    assert found.kl.values[0].mean == found.change.values[0].mean == 0


def test_knowing_the_object_beats_chance_and_its_opposite_loses(
    classifier: Classifier, oracle: Any, chance: Any, many: Tensor
) -> None:
    good = oracle.maps(many)
    areas = [pixel_perturbation(classifier, many, maps).kl.area for maps in (good, chance(many), -good)]
    assert areas[0].mean + 3 * areas[0].standard_error < areas[1].mean < areas[2].mean


def test_insertion_and_deletion_take_113_steps_of_9_pixels_at_32(classifier: Classifier) -> None:
    found = insertion_deletion(classifier, torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32))
    counts = [round(share * 1024) for share in found.insertion.shares]
    assert len(counts) == 114
    assert (counts[0], counts[-1]) == (0, 1024)
    steps = {after - before for before, after in pairwise(counts)}
    assert steps == {9, 10}


def test_insertion_and_deletion_show_and_hide_the_most_salient_first(classifier: Classifier, many: Tensor) -> None:
    maps = torch.rand(20, 16, 16)
    found = insertion_deletion(classifier, many, maps, steps=4, batch_size=8)
    assert found.insertion.shares == (0, 0.25, 0.5, 0.75, 1)
    label, ranks = predicted_classes(classifier, many), to_ranks(maps)
    for index, share in enumerate(found.insertion.shares):
        top = ranks >= 256 - round(share * 256)
        for curve, kept in ((found.insertion, top), (found.deletion, ~top)):
            now = after(classifier, many, kept).gather(1, label[:, None])
            assert curve.values[index].mean == pytest.approx(float(now.mean()), abs=1e-5, rel=1e-4)
    assert found.insertion.values[-1] == found.deletion.values[0]
    assert found.insertion.values[0].mean == pytest.approx(found.deletion.values[-1].mean)


def test_the_object_is_worth_more_than_chance(classifier: Classifier, oracle: Any, chance: Any, many: Tensor) -> None:
    ours = insertion_deletion(classifier, many, oracle.maps(many))
    control = insertion_deletion(classifier, many, chance(many))
    assert ours.insertion.area.mean > control.insertion.area.mean + 0.1
    assert ours.deletion.area.mean < control.deletion.area.mean - 0.05


def test_too_few_pixels_for_the_steps_are_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match=r"images of 10 x 10 pixels are too small for insertion and deletion in 113"):
        insertion_deletion(classifier, torch.rand(1, 3, 10, 10), torch.rand(1, 10, 10))


def test_tiles_cover_an_image_and_the_last_ones_are_cut() -> None:
    index, count = tile_index(32, 32, 14)
    assert count == 9
    assert torch.bincount(index.flatten()).tolist() == [196, 196, 56, 196, 196, 56, 56, 56, 16]
    assert index[0, 13] == 0
    assert index[0, 14] == 1
    assert index[31, 31] == 8


def test_tiles_go_by_their_mean_in_both_orders(classifier: Classifier, many: Tensor) -> None:
    maps = torch.rand(20, 16, 16)
    found = tile_degradation(classifier, many, maps, tile=8, batch_size=9)
    means = F.avg_pool2d(maps[:, None], 8).flatten(1)
    label = predicted_classes(classifier, many)
    for removed in range(5):
        for curve, order in ((found.morf, means.argsort(1, descending=True)), (found.lerf, means.argsort(1))):
            kept = torch.ones(20, 4, dtype=torch.bool).scatter_(1, order[:, :removed], value=False)
            kept = kept.view(20, 2, 2).repeat_interleave(8, 1).repeat_interleave(8, 2)
            now = after(classifier, many, kept).gather(1, label[:, None])
            assert curve.values[removed].mean == pytest.approx(float(now.mean()), abs=1e-5, rel=1e-4)
    assert found.between.mean == pytest.approx(found.lerf.area.mean - found.morf.area.mean)


def test_the_area_between_tile_curves_tells_object_chance_and_opposite(
    classifier: Classifier, oracle: Any, chance: Any, many: Tensor
) -> None:
    good = oracle.maps(many)
    ours, control, wrong = (
        tile_degradation(classifier, many, maps, tile=4).between for maps in (good, chance(many), -good)
    )
    assert ours.mean - 3 * ours.standard_error > 0.1
    assert abs(control.mean) < 4 * control.standard_error
    assert wrong.mean == pytest.approx(-ours.mean, abs=0.05)


def test_a_constant_map_is_worth_what_chance_is(classifier: Classifier, many: Tensor) -> None:
    found = tile_degradation(classifier, many, torch.ones(20, 16, 16), tile=4).between
    assert abs(found.mean) < 4 * found.standard_error


@pytest.mark.parametrize("side", [8, 12])
def test_images_without_two_tiles_are_refused(classifier: Classifier, side: int) -> None:
    with pytest.raises(DataError, match=f"images of {side} x {side} pixels are too small for tiles of"):
        tile_degradation(
            classifier, torch.rand(1, 3, side, side), torch.rand(1, side, side), tile=14 if side > 8 else 8
        )
