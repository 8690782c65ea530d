"""Amortized explainers behind the common interface."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.config import GatesConfig
from compress.config.gates import EXPLAINERS
from compress.errors import DataError
from compress.explain import (
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
    assert torch.equal(saliency.parameters, expected)
    assert torch.equal(saliency.maps, rbf_map(expected, 16)[:, 0])
    assert not saliency.maps.requires_grad
    assert saliency.uncertainty is None


def test_realx_gives_its_probabilities(pixelwise: ExplainedClassifier, images: Tensor) -> None:
    explainer: Explainer = RealXExplainer(pixelwise)
    saliency = explainer.explain(images)
    assert explainer.name == "realx"
    assert saliency.parameters is None
    with torch.no_grad():
        logits = pixelwise.classifier(images)
        assert torch.equal(saliency.maps, pixelwise(images, logits.argmax(1))[1])


def test_an_explainer_speaks_for_its_own_head_only(network: ExplainedClassifier) -> None:
    with pytest.raises(AssertionError, match="RealXExplainer cannot speak for a RbfHead"):
        RealXExplainer(network)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((2, 3, 8, 8), torch.float32), ((3, 16, 16), torch.float32), ((2, 3, 16, 16), torch.uint8)],
    ids=["size", "no batch", "bytes"],
)
def test_images_that_do_not_fit_are_refused(
    network: ExplainedClassifier, shape: tuple[int, ...], kind: torch.dtype
) -> None:
    with pytest.raises(DataError, match=r"was given; images are \(N, 3, 16, 16\) in \[0, 1\]"):
        RbfExplainer(network).explain(torch.zeros(shape, dtype=kind))


def test_the_first_image_out_of_range_is_named(network: ExplainedClassifier, images: Tensor) -> None:
    images = images.clone()
    images[2, 0, 0, 0] = 1.5
    images[4] = float("nan")
    with pytest.raises(DataError, match=r"image 2 has values from .* to 1\.5.*divide bytes by 255"):
        RbfExplainer(network).explain(images)
    with pytest.raises(DataError, match="image 1 has values"):
        RbfExplainer(network).explain(images[3:])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"6 images came with labels of shape \(2,\)"),
        ([0, 1, 2, 0, 3, 9], r"label 3 of image 4 is no class; allowed: 0 to 2"),
        ([0, -1, 2, 0, 1, 2], r"label -1 of image 1 is no class"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    network: ExplainedClassifier, images: Tensor, labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        RbfExplainer(network).explain(images, torch.tensor(labels))


def test_recipes_name_the_explainers_that_can_steer() -> None:
    assert set(STEERING) == set(EXPLAINERS)
    for name in EXPLAINERS:
        assert STEERING.get(name).head.kind == name
        assert GatesConfig.model_validate({"steer": name}).explainer == name
    assert all(GatesConfig.model_validate({"steer": s}).explainer is None for s in ("none", "magnitude", "uniform"))
