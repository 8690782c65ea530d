"""Training, judging and refusing saliency maps."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from torch import Tensor, nn

from slimsight.compress.config import VarSalConfig
from slimsight.compress.data import Batches
from slimsight.compress.errors import PruningError
from slimsight.compress.explain.varsal import Encoder, MapQuality, judge_maps, refuse_flat, train_maps
from slimsight.compress.explain.varsal.learn import REMOVED, keep_highest
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning

QUICK = VarSalConfig(epochs=6, lr=1e-2, batch_size=16, patience=6)
GOOD = MapQuality(
    removed=REMOVED,
    kl=(0.1,) * 5,
    kl_random=(0.5,) * 5,
    kl_other=(0.3,) * 5,
    kl_centre=(0.2,) * 5,
    spread=0.5,
    variety=0.4,
    uncertainty=0.5,
    images=20,
)


class Head(nn.Module):
    """Maps from the classifier's own first features: what steers gates."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.head = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        net = self.classifier.net
        assert isinstance(net, nn.Sequential)
        maps: Tensor = self.head(net[:3](self.classifier.normalize(images)))
        return maps


def test_it_learns_where_the_evidence_is(classifier: Classifier, train: Batches, val: Batches, fabric: Fabric) -> None:
    torch.manual_seed(0)
    before = copy.deepcopy(classifier.state_dict())
    maps = Encoder((16, 16))
    history = train_maps(maps, classifier, train, val, Learning(fabric), config=QUICK)
    quality = judge_maps(maps, classifier, val, fabric)
    refuse_flat(quality)
    assert len(history.epochs) == 6
    assert quality.mean_kl == pytest.approx(history.best, rel=1e-4)
    assert quality.mean_kl < 0.5 * quality.mean_kl_random
    assert quality.mean_kl < 0.5 * sum(quality.kl_other) / len(REMOVED)  # patches are anywhere
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not maps.training
    batch = next(val.epoch(0))
    mean = maps(batch.images)[:, 0]
    patch = batch.images.amax(1) > 0.9
    assert mean[patch].mean() > mean[~patch].mean() + 0.5 * quality.spread


def test_a_head_on_the_classifier_leaves_it_as_it_is(
    classifier: Classifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    before = copy.deepcopy(classifier.state_dict())
    head = Head(classifier)
    weights = head.head.weight.detach().clone()
    train_maps(head, classifier, train, val, Learning(fabric), config=QUICK.model_copy(update={"epochs": 1}))
    assert not torch.equal(head.head.weight, weights)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_figures_are_those_of_one_image_after_another(classifier: Classifier, val: Batches, fabric: Fabric) -> None:
    torch.manual_seed(0)
    maps = Encoder((4,)).eval()
    quality = judge_maps(maps, classifier, val, fabric)
    images = torch.cat([batch.images for batch in val.epoch(0)])
    with torch.no_grad():
        mean, log_variance = maps(images).unbind(1)
        p = classifier(images).double().softmax(1)
    others = [each for batch in mean.split(val.batch_size) for each in (batch[-1], *batch[:-1])]
    middle = [[-((row - 7.5) ** 2 + (column - 7.5) ** 2) for column in range(16)] for row in range(16)]
    centre = [torch.tensor(middle)] * len(images)
    columns = (quality.kl, quality.kl_other, quality.kl_centre)
    for index, share in enumerate(REMOVED):
        for total, ranking in zip([column[index] for column in columns], (mean, others, centre), strict=True):
            expected = 0.0
            for number, scores in enumerate(ranking):
                order = sorted(range(256), key=scores.flatten().tolist().__getitem__, reverse=True)
                mask = torch.zeros(256)
                mask[order[: round((1 - share) * 256)]] = 1
                with torch.no_grad():
                    seen = classifier.normalize(images[number : number + 1]) * mask.reshape(1, 1, 16, 16)
                    q = classifier.net(seen)[0].double().softmax(0)
                expected += sum(a * math.log(a / b) for a, b in zip(p[number].tolist(), q.tolist(), strict=True))
            assert total == pytest.approx(expected / len(images), rel=1e-4, abs=1e-7)  # float32 against float64
    assert quality.spread == pytest.approx(
        float(mean.flatten(1).std(1).sort().values[(len(images) - 1) // 2]), rel=1e-4
    )
    assert quality.variety == pytest.approx(float(mean.std(0, correction=0).mean()), rel=1e-3)
    assert quality.uncertainty == pytest.approx(float(torch.exp(log_variance / 2).mean()), rel=1e-4)
    assert quality.images == 20


def test_a_brief_judgement_leaves_out_the_comparisons_only(
    classifier: Classifier, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    maps = Encoder((4,))
    full, brief = (judge_maps(maps, classifier, val, fabric, brief=short).to_dict() for short in (False, True))
    left_out = {"kl_random", "kl_other", "kl_centre"}
    assert all(math.isnan(value) for name in left_out for value in brief[name])
    assert {name: brief[name] for name in full.keys() - left_out} == {
        name: full[name] for name in full.keys() - left_out
    }


def test_judging_is_the_same_twice(classifier: Classifier, val: Batches, fabric: Fabric) -> None:
    torch.manual_seed(0)
    maps = Encoder((4,))
    assert judge_maps(maps, classifier, val, fabric) == judge_maps(maps, classifier, val, fabric)


def test_a_classifier_without_normalisation_is_masked_as_it_is(val: Batches, fabric: Fabric) -> None:
    sums = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    quality = judge_maps(Encoder((4,)), sums, val, fabric)
    assert all(value > 0 for value in quality.kl)


def test_the_highest_pixels_are_kept() -> None:
    scores = torch.tensor([[[0.1, 0.9], [0.5, 0.3]]])
    assert keep_highest(scores, 0.5).tolist() == [[[[0.0, 1.0], [1.0, 0.0]]]]


class Constant(nn.Module):
    """The same number at every pixel of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.expand(len(images), 2, *images.shape[2:])


def test_constant_maps_are_refused(classifier: Classifier, val: Batches, fabric: Fabric) -> None:
    quality = judge_maps(Constant(), classifier, val, fabric)
    with pytest.raises(
        PruningError,
        match=r"collapsed to a constant \(standard deviation \S+ over the pixels",
    ):
        refuse_flat(quality)


def test_maps_that_are_no_better_than_random_are_refused() -> None:
    refuse_flat(GOOD)
    message = r"no better than a random order of the pixels \(KL 0\.500 against 0\.500 nats\)"
    with pytest.raises(PruningError, match=message):
        refuse_flat(dataclasses.replace(GOOD, kl=(0.5,) * 5))
    with pytest.raises(PruningError, match="no better than a random order"):
        refuse_flat(dataclasses.replace(GOOD, kl=(math.nan,) * 5))


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 0.6},
        {"alpha": -0.1},
        {"kept": (0.0, 0.5)},
        {"kept": (0.9, 0.1)},
        {"kept": (0.1, 1.0)},
        {"epsilon": 0},
        {"beta": -1},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VarSalConfig.model_validate(bad)
