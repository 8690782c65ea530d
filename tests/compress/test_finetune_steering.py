"""Explanations stay where they were while weights change, if the finetuning asks for it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from slimsight.compress.config import FinetuneConfig
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.explain import ExplainedClassifier, RealXHead, Selector, explanations, find_scales, rbf_drift
from slimsight.compress.explain.varsal import VarSalHead
from slimsight.compress.finetune import Steering, train_classifier
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning, make_fabric

SIDE = 16


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Two classes by brightness of the middle."""
    draw = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = draw.integers(0, 90, (64, 3, SIDE, SIDE)).astype(np.uint8)
    pixels[labels == 1, :, 4:12, 4:12] += 160
    return ImageSet(pixels, labels.astype(np.int64), ("dark", "bright"))


@pytest.fixture(scope="module")
def network() -> ExplainedClassifier:
    """Random weights; explanations that move by pixels when features change."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 2),
    )
    classifier = Classifier(net, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()
    selector = Selector(find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE)), 2, SIDE)
    nn.init.normal_(selector.head.weight, std=0.2)
    return ExplainedClassifier(classifier, selector).eval()


def finetuned(network: ExplainedClassifier, images: ImageSet, weight: float) -> tuple[ExplainedClassifier, list[float]]:
    """A copy after a few epochs, and its ``steer`` by epoch."""
    torch.manual_seed(0)
    slim = copy.deepcopy(network)
    steering = Steering(network, slim, weight)
    history = train_classifier(
        slim.classifier,
        Batches(images, 16, shuffle=True),
        Learning(make_fabric(accelerator="cpu")),
        config=FinetuneConfig(epochs=6, lr=0.05),
        steering=steering,
    )
    return slim, [epoch["steer"] for epoch in history.epochs]


def test_explanations_move_less_and_decoders_not_at_all(network: ExplainedClassifier, images: ImageSet) -> None:
    before = copy.deepcopy(network.state_dict())
    batches = Batches(images, 64)
    wanted = explanations(network, batches)
    drifts = {}
    for weight in (0.0, 0.2):
        slim, steers = finetuned(network, images, weight)
        drifts[weight] = rbf_drift(wanted, explanations(slim, batches), SIDE).center_drift_px
        for name, value in slim.selector.state_dict().items():
            assert torch.equal(value, before[f"selector.{name}"]), name
        assert all(np.isfinite(steers))
    assert drifts[0.2] < 0.6 * drifts[0.0]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_term_is_in_pixels_of_a_32_pixel_side(network: ExplainedClassifier, images: ImageSet) -> None:
    """Centres one pixel away on a side of 16 are two pixels away on a side of 32."""
    batch = next(iter(Batches(images, 64).epoch(0)))
    steering = Steering(network, network, 1.0)
    with torch.no_grad():
        params = network(batch.images, batch.labels)[1]
        moved = params + torch.tensor([1.0, 0.0, 0.0])
        assert float(steering.distance(batch, params)) == 0
        assert float(steering.distance(batch, moved)) == pytest.approx(4.0, rel=1e-4)


def test_maps_are_steered_in_the_unit_that_is_given(network: ExplainedClassifier, images: ImageSet) -> None:
    scales = network.selector.scales
    pixelwise = ExplainedClassifier(network.classifier, Selector(scales, 2, SIDE, RealXHead)).eval()
    batch = next(iter(Batches(images, 64).epoch(0)))
    steering = Steering(pixelwise, pixelwise, 1.0, unit=0.5)
    with torch.no_grad():
        found = pixelwise(batch.images, batch.labels)[1]
        moved = found.clone()
        moved[:, 3, 4] += 2
        assert float(steering.distance(batch, moved)) == pytest.approx(2.0, rel=1e-4)
    with pytest.raises(AssertionError):
        Steering(pixelwise, pixelwise, 1.0)


def test_of_varsal_the_mean_is_kept_and_the_variance_is_free(network: ExplainedClassifier, images: ImageSet) -> None:
    varsal = ExplainedClassifier(network.classifier, Selector(network.selector.scales, 2, SIDE, VarSalHead)).eval()
    batch = next(iter(Batches(images, 64).epoch(0)))
    steering = Steering(varsal, varsal, 1.0, unit=0.5)
    with torch.no_grad():
        moved = varsal(batch.images, batch.labels)[1]
        moved[:, 1] += 5
        assert float(steering.distance(batch, moved)) == 0
        moved[:, 0, 3, 4] += 2
        assert float(steering.distance(batch, moved)) == pytest.approx(2.0, rel=1e-4)


def test_another_model_than_the_slim_networks_classifier_is_a_mistake(
    network: ExplainedClassifier, images: ImageSet
) -> None:
    other = copy.deepcopy(network.classifier)
    with pytest.raises(AssertionError):
        train_classifier(
            other,
            Batches(images, 16),
            Learning(make_fabric(accelerator="cpu")),
            config=FinetuneConfig(epochs=1),
            steering=Steering(network, copy.deepcopy(network), 0.1),
        )
