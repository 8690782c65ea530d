"""VarSal on a classifier's own features: what the head says, what of it steers, and how it learns."""

from __future__ import annotations

import copy
import math
from statistics import fmean

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from slimsight.compress.config import ExplainerConfig
from slimsight.compress.data import Batches
from slimsight.compress.errors import ConfigError, DataError, PruningError
from slimsight.compress.explain import STEERING, AmortizedExplainer, ExplainedClassifier, Selector, find_targets
from slimsight.compress.explain.amortized.heads import RBF_VARIANCE, resize_maps
from slimsight.compress.explain.varsal import SelectorMaps, VarSalHead
from slimsight.compress.explain.varsal.head import KEPT_SHARE
from slimsight.compress.training import Learning

QUICK = ExplainerConfig.model_validate({"varsal": {"epochs": 12, "lr": 1e-2, "batch_size": 16, "patience": 12}})


@pytest.fixture
def varsal(network: ExplainedClassifier) -> ExplainedClassifier:
    """The trained classifier with a VarSal head that has learned nothing."""
    torch.manual_seed(1)
    return ExplainedClassifier(network.classifier, Selector(network.selector.scales, 3, 16, VarSalHead)).eval()


@pytest.fixture
def coarse() -> VarSalHead:
    """A head whose finest scale is a quarter of the image's side, as on ImageNet."""
    torch.manual_seed(0)
    head = VarSalHead(4, 8, 32).eval()
    head.init_weights_()
    return head


def test_it_says_a_mean_and_a_log_variance_per_pixel_of_the_finest_scale(coarse: VarSalHead) -> None:
    maps = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        numbers = coarse(maps)
    assert numbers.shape == (3, 2, 8, 8)
    torch.testing.assert_close(numbers, torch.nn.functional.conv2d(maps, coarse.weight, coarse.bias))
    saliency = coarse.to_saliency(numbers)
    assert saliency.uncertainty is not None
    assert torch.equal(saliency.maps, resize_maps(numbers[:, :1], 32)[:, 0])
    torch.testing.assert_close(saliency.uncertainty, resize_maps(numbers[:, 1:], 32)[:, 0].mul(0.5).exp())


def test_its_masks_keep_a_quarter_of_the_pixels_the_highest_first(coarse: VarSalHead) -> None:
    numbers = torch.randn(3, 2, 8, 8)
    maps = coarse.to_maps(numbers)
    assert maps.shape == (3, 1, 32, 32)
    torch.testing.assert_close(maps.mean((1, 2, 3)), torch.full((3,), KEPT_SHARE))
    mean = coarse.to_saliency(numbers).maps
    for mask, scores in zip(maps.flatten(1), mean.flatten(1), strict=True):
        assert bool((mask[scores.argsort()].diff() >= 0).all())
        assert float(mask[scores.argmax()]) > 0.99
    shifted = numbers + torch.tensor([3.0, -1.0]).view(1, 2, 1, 1)  # no other order, and the variance is no matter
    torch.testing.assert_close(coarse.to_maps(shifted), maps, rtol=0, atol=1e-4)


def test_the_mean_steers_and_the_variance_does_not(varsal: ExplainedClassifier, val: Batches) -> None:
    targets = find_targets(varsal, val)
    assert targets.numbers.dtype == torch.float16
    assert targets.numbers.shape == (20, 16, 16)
    batch = next(val.epoch(0))
    with torch.no_grad():
        found = varsal(batch.images, batch.labels)[1]
    found.requires_grad_()
    moved = found + torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    distance = targets.distance(moved, batch.indices)
    assert float(distance.detach()) == pytest.approx(targets.unit * 0.25 * 256, rel=0.02)
    (gradient,) = torch.autograd.grad(distance, found)
    assert bool((gradient[:, 0] != 0).all())
    assert float(gradient[:, 1].abs().max()) == 0


def test_its_unit_is_that_of_the_other_explainers() -> None:
    torch.manual_seed(0)
    head, means = VarSalHead(4, 8, 32), 3 * torch.randn(400, 8, 8)
    pairs = (means - means[torch.randperm(400)]).square().sum((1, 2)).mean() * head.unit(means)
    assert float(pairs) == pytest.approx(2 * RBF_VARIANCE, rel=0.05)
    with pytest.raises(PruningError, match=r"gives all images the same explanation.*\(explainer\.varsal\.epochs\)"):
        head.unit(torch.ones(5, 8, 8))


def test_it_learns_from_the_classifier_alone_where_the_evidence_is(
    varsal: ExplainedClassifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    explainer = STEERING.get("varsal")
    assert explainer.masks is None
    assert explainer.batch_size(QUICK) == 16
    before = copy.deepcopy(varsal.classifier.state_dict())
    torch.manual_seed(0)
    history = explainer.train(varsal, None, train, val, Learning(fabric), config=QUICK)
    quality = explainer.judge(varsal, None, val, fabric, config=QUICK)
    explainer.refuse(quality, QUICK)
    assert quality.mean_kl == pytest.approx(history.best, rel=1e-4)
    assert quality.mean_kl < 0.5 * quality.mean_kl_random
    assert quality.mean_kl < 0.7 * fmean(quality.kl_other)
    assert quality.mean_kl < 0.7 * fmean(quality.kl_centre)  # patches are anywhere
    assert not any(p.requires_grad for p in varsal.parameters())
    assert all(torch.equal(value, before[name]) for name, value in varsal.classifier.state_dict().items())
    assert f"{quality.mean_kl_random:.3f}" in quality.in_words()


def test_a_head_that_has_learned_nothing_but_a_constant_is_refused(
    varsal: ExplainedClassifier, val: Batches, fabric: Fabric
) -> None:
    torch.nn.init.zeros_(varsal.selector.head.weight)
    explainer = STEERING.get("varsal")
    quality = explainer.judge(varsal, None, val, fabric, config=QUICK)
    with pytest.raises(PruningError, match=r"constant.*lower explainer\.varsal\.beta.*explainer\.varsal\.epochs"):
        explainer.refuse(quality, QUICK)


def test_settings_that_the_images_do_not_allow_are_refused_before_anything_is_learned() -> None:
    explainer, steep = STEERING.get("varsal"), ExplainerConfig.model_validate({"varsal": {"alpha": 0.51}})
    explainer.check(steep, 8)
    with pytest.raises(ConfigError, match=r"alpha of the soft-TV prior is 0\.51; maps of 32 x 32"):
        explainer.check(steep, 32)
    with pytest.raises(DataError, match="images of 7 x 7 pixels are too small for VarSal"):
        explainer.check(ExplainerConfig(), 7)
    STEERING.get("rbf").check(steep, 7)  # no matter of the others


def test_maps_have_the_size_of_the_image_and_are_of_the_predicted_class(
    varsal: ExplainedClassifier, images: Tensor
) -> None:
    explainer = AmortizedExplainer(varsal)
    assert explainer.name == "varsal"
    with torch.no_grad():
        found = SelectorMaps(varsal)(images)
        predicted = varsal.classifier(images).argmax(1)
    assert found.shape == (6, 2, 16, 16)
    saliency = explainer.explain(images, predicted)
    torch.testing.assert_close(saliency.maps, found[:, 0])
    assert saliency.uncertainty is not None
    assert float(saliency.uncertainty.mean()) == pytest.approx(float((found[:, 1] / 2).exp().mean()), rel=1e-5)
    assert not math.isclose(float(saliency.maps.std()), 0)
