"""Amortized explainers behind the common interface."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimsight.compress.config import GatesConfig
from slimsight.compress.config.gates import EXPLAINERS
from slimsight.compress.errors import DataError
from slimsight.compress.explain import (
    STEERING,
    ExplainedClassifier,
    Explainer,
    RbfExplainer,
    RealXExplainer,
    RealXHead,
    Selector,
    rbf_map,
)


@pytest.fixture
def pixelwise(network: ExplainedClassifier) -> ExplainedClassifier:
    return ExplainedClassifier(network.classifier, Selector(network.selector.scales, 3, 16, RealXHead)).eval()


def test_rbf_gives_its_parameters_and_the_masks_they_mean(network: ExplainedClassifier, images: Tensor) -> None:
    explainer: Explainer = RbfExplainer(network.train())
    labels = torch.arange(6) % 3
    saliency = explainer.explain(images, labels)
    assert explainer.name == "rbf"
    assert not network.training
    with torch.no_grad():
        expected = network(images, labels)[1]
    assert saliency.parameters is not None
    torch.testing.assert_close(saliency.parameters, expected, rtol=1e-6, atol=0)
    assert torch.equal(saliency.maps, rbf_map(saliency.parameters, 16)[:, 0])
    assert not saliency.maps.requires_grad
    assert saliency.uncertainty is None


def test_realx_gives_its_probabilities(pixelwise: ExplainedClassifier, images: Tensor) -> None:
    explainer: Explainer = RealXExplainer(pixelwise)
    saliency = explainer.explain(images)
    assert explainer.name == "realx"
    assert saliency.parameters is None
    with torch.no_grad():
        logits = pixelwise.classifier(images)
        expected = pixelwise(images, logits.argmax(1))[1]
    torch.testing.assert_close(saliency.maps, expected, rtol=0, atol=1e-6)


def test_an_explainer_speaks_for_its_own_head_only(network: ExplainedClassifier) -> None:
    with pytest.raises(AssertionError, match="RealXExplainer needs a RealXHead, not a RbfHead"):
        RealXExplainer(network)


def test_images_and_labels_that_do_not_fit_are_refused(network: ExplainedClassifier, images: Tensor) -> None:
    explainer = RbfExplainer(network)
    with pytest.raises(DataError, match="images are 8x8 pixels; this explainer takes 16x16"):
        explainer.explain(torch.zeros(2, 3, 8, 8))
    with pytest.raises(DataError, match=r"images are torch\.uint8"):
        explainer.explain((images * 255).byte())
    with pytest.raises(DataError, match=r"pixels go from .* to 2"):
        explainer.explain(2 * images / images.max())
    with pytest.raises(DataError, match=r"6 images take labels \(6,\)"):
        explainer.explain(images, torch.tensor([0, 1]))
    with pytest.raises(DataError, match="label 3 of image 4: the classifier has 3 classes"):
        explainer.explain(images, torch.tensor([0, 1, 2, 0, 3, 9]))


def test_recipes_name_the_explainers_that_can_steer() -> None:
    assert set(STEERING) == set(EXPLAINERS)
    for name in EXPLAINERS:
        assert STEERING.get(name).head.kind == name
        assert GatesConfig.model_validate({"steer": name}).explainer == name
    assert all(GatesConfig.model_validate({"steer": s}).explainer is None for s in ("none", "magnitude", "uniform"))
